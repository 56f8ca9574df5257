"""The command train: a folder of images and reports becomes an adapter; the same command again resumes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import writable

GIVEN = ("rank", "alpha", "steps", "epochs", "batch", "accumulate", "lr", "kernel", "modality", "window", "fit", "size",
         "split", "held_out", "max_bad", "drop", "phrasings", "weighting", "ema", "warmup", "seed", "preview_every",
         "save_minutes", "audit", "mixed", "name", "task", "body_part", "licence")  # fmt: skip


@app.command("train")
def train_(
    folder: Annotated[Path, typer.Argument(help="Images and a metadata.csv or .jsonl; or DICOM files and a table.")],
    out: Annotated[Path, typer.Option(help="Folder of the finished adapter, such as adapters/mine.")],
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    modality: Annotated[
        str | None, typer.Option(help="cxr, ct, mri, us or pet; as the reports say, if not given.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What it is for, in a few words; for its card.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA's; 16 if not given.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="The change is alpha / rank * B A; the rank if not given.")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option(help="attention, wide, text, full, or ends of modules' names; repeatable.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; 1000 if neither these nor epochs are given.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images, in place of steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a step; 8 if not given.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts a batch is computed in, to save memory.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 5e-4, and for full 5e-5, if not given.")] = None,
    kernel: Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D.")] = None,
    weighting: Annotated[str | None, typer.Option(help="Of the loss over noise levels: edm or min-snr.")] = None,
    window: Annotated[str | None, typer.Option(help="Of CT: lung, mediastinum, ...; or LOW,HIGH in HU or SUV.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop, the central square, or letterbox.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side; must be the model's.")] = None,
    split: Annotated[str | None, typer.Option(help="patient, by chance; or column, as a column split says.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the patients that is held out.")] = None,
    max_bad: Annotated[int | None, typer.Option(help="Rows that may be refused; 10 if not given.")] = None,
    drop: Annotated[float | None, typer.Option(help="Share of captions left empty.")] = None,
    phrasings: Annotated[int | None, typer.Option(help="Texts composed of a report's facts, besides its own.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps until the full learning rate.")] = None,
    audit: Annotated[int | None, typer.Option(help="Images of the audit at the end; 100 if not given.")] = None,
    mixed: Annotated[
        str | None, typer.Option(help="bf16 or no; what this machine computes quickly, if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    preview_every: Annotated[int | None, typer.Option(help="Steps between contact sheets.")] = None,
    save_minutes: Annotated[float | None, typer.Option(help="Minutes between checkpoints.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapter; its folder's if not given.")] = None,
    body_part: Annotated[str | None, typer.Option(help="For its card.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, for its card: cc-by-4.0.")] = None,
    like: Annotated[Path | None, typer.Option(help="An adapter that says what is not given here.")] = None,
    table: Annotated[Path | None, typer.Option(help="Another table than FOLDER/metadata.csv.")] = None,
    report_column: Annotated[str, typer.Option(help="The table's column of reports, if it has no usual name.")] = "",
    plane: Annotated[str, typer.Option(help="Slices to take of NIfTI volumes: axial, coronal or sagittal.")] = "",
    burned_in: Annotated[
        bool, typer.Option("--burned-in", help="Take DICOM files that say that text is burned into their pixels.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Events for TensorBoard besides log.csv.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with memory and time, and stop.")] = False,
) -> None:
    """Fine-tune an adapter on your own images and reports; repeat the same command to resume."""
    given: dict[str, Any] = {key: value for key, value in locals().items() if key in GIVEN and value is not None}
    from vlgen.backbone import load
    from vlgen.dataset import Dataset
    from vlgen.train import outline, train

    if targets:
        given["targets"] = tuple(targets)
    if tensorboard:
        given["tensorboard"] = True
    data = Dataset(folder, table=table, report_column=report_column, plane=plane, burned_in=burned_in)
    backbone = load(model)
    if dry_run:
        for line in outline(backbone, data, out=out, like=like, **given):
            print(line)
        return
    writable(out.parent)
    from accelerate import PartialState

    main = PartialState().is_main_process
    with _Bar(given.get("batch", 8), quiet=not main) as show:
        for step in train(backbone, data, out=out, like=like, **given):
            show(step)
    if main:
        from vlgen.adapter import read

        report(read(out).audit)
        print(f"the adapter is in {out}; its log and contact sheets are in {out.with_name(f'{out.name}.training')}")


def report(audit: Mapping[str, Any]) -> None:
    """Print an audit: a line for each figure, before and after, with what to read it beside; then the sentences."""
    from rich.console import Console
    from rich.table import Table

    table = Table("audit", "before", "after", "n", "beside", "which is")
    for what, figures in audit.items():
        if isinstance(figures, Mapping):
            shown = [f"{figures[k]:.4g}" if k in figures else "" for k in ("before", "after", "n", "beside")]
            table.add_row(what, *shown, str(figures.get("which is", "")))
    if table.row_count:
        Console().print(table)
    print(audit.get("in words", ""))


class _Bar:
    """Shows a training as it goes: a bar where somebody watches, else a line now and then."""

    def __init__(self, batch: int, *, quiet: bool) -> None:
        self.batch, self.quiet, self.live = batch, quiet, sys.stderr.isatty() and not quiet

    def __enter__(self) -> Any:
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), "{task.completed}/{task.total}", TimeRemainingColumn())
            self.progress = Progress(*columns, TextColumn("{task.fields[said]}"), console=Console(stderr=True))
            self.progress.start()
            self.tasks: dict[str, Any] = {}
        return self.show

    def show(self, step: Any) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in step.figures.items())
        speed = f"{step.images_per_second:.1f} images/s" if step.images_per_second else ""
        said = "  ".join(filter(None, (figures, speed)))
        if self.live:
            if step.stage not in self.tasks:
                self.tasks[step.stage] = self.progress.add_task(step.stage, total=step.steps, said="")
            self.progress.update(self.tasks[step.stage], completed=step.step, said=said)
        elif not self.quiet and step.figures and (step.step % 50 == 0 or step.step in (1, step.steps)):
            left = (step.steps - step.step) * self.batch / max(step.images_per_second, 1e-9)
            print(f"{step.stage} {step.step}/{step.steps}  {said}  {left / 60:.0f} min left", flush=True)

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.progress.stop()
