"""The command benchmark scarcity: adapter and full fine-tune on ever more images, beside the base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vlgen.cli.arguments import bar
from vlgen.cli.benchmarks import benchmarks

GIVEN = ("steps", "batch", "rank", "alpha", "lr", "full_lr", "modality", "window", "split", "held_out", "seed",
         "kernel", "mixed")  # fmt: skip
COLUMNS = (
    ("held-out loss", 13),
    ("Frechet distance", 21),
    ("kernel distance", 15),
    ("nearest-neighbor ratio", 22),
    ("copies", 6),
    ("membership AUC", 19),
)


@benchmarks.command()
def scarcity(
    folder: Annotated[Path, typer.Argument(help="Images and a metadata.csv or .jsonl, as vlgen train takes them.")],
    out: Annotated[Path, typer.Option(help="Folder for the trainings; repeat the command to go on.")],
    sizes: Annotated[str, typer.Option(help="Numbers of training images.")] = "25,50,100,200,500",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every training; 400 if not given.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a step; 8 if not given.")] = None,
    count: Annotated[int, typer.Option(help="Images that the base and every training make.")] = 100,
    rank: Annotated[int | None, typer.Option(help="LoRA's; 8 if not given.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="The change is alpha / rank * B A; the rank if not given.")
    ] = None,
    targets: Annotated[list[str] | None, typer.Option(help="Of the adapter: wide if not given; repeatable.")] = None,
    lr: Annotated[float | None, typer.Option(help="The adapter's learning rate; 5e-4 if not given.")] = None,
    full_lr: Annotated[float | None, typer.Option(help="The full fine-tune's; 5e-5 if not given.")] = None,
    kernel: Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D.")] = None,
    modality: Annotated[str | None, typer.Option(help="As the reports say, if not given.")] = None,
    window: Annotated[str | None, typer.Option(help="Of CT: lung, mediastinum, ...; or LOW,HIGH in HU or SUV.")] = None,
    split: Annotated[str | None, typer.Option(help="patient, by chance; or column, as a column split says.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the patients that is held out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of the images and every other choice.")] = None,
    mixed: Annotated[str | None, typer.Option(help="bf16 or no; what this machine computes quickly.")] = None,
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    table: Annotated[Path | None, typer.Option(help="Another table than FOLDER/metadata.csv.")] = None,
    report_column: Annotated[str, typer.Option(help="The table's column of reports, if it has no usual name.")] = "",
    json_: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and time, and stop.")] = False,
) -> None:
    """What an adapter and a full fine-tune make of few images: realism and memorization, beside the base."""
    given: dict[str, Any] = {key: value for key, value in locals().items() if key in GIVEN and value is not None}
    if targets:
        given["targets"] = tuple(targets)
    from vlgen.backbone import load
    from vlgen.benchmark.scarcity import Outcome, forecast, study
    from vlgen.benchmark.scarcity import scarcity as outcomes
    from vlgen.cli.arguments import writable
    from vlgen.dataset import Dataset
    from vlgen.files import store

    numbers = sizes_of(sizes)
    data = Dataset(folder, table=table, report_column=report_column)
    writable(out)
    if json_:
        writable(json_.parent)
    with bar(None, quiet=False) as show:
        walk = study(load(model), data, out=out, sizes=numbers, count=count, **given)
        while True:
            try:
                step = next(walk)
            except StopIteration as stop:
                found = stop.value
                break
            show(step.stage, step.step, step.steps)
    for line in forecast(found):
        print(line, flush=True)
    if dry_run:
        return
    rows: list[Outcome] = []
    with bar(None, quiet=False) as show:
        for each in outcomes(found):
            if not isinstance(each, Outcome):
                show(each.stage, each.step, each.steps)
                continue
            if not rows:
                print("\nimages  kind     " + "  ".join(f"{name:>{width}s}" for name, width in COLUMNS), flush=True)
            rows.append(each)
            print(line_of(each), flush=True)
            if json_:
                about = {"model": found.backbone.name, "fingerprint": found.backbone.fingerprint, "count": count}
                about |= {
                    "held_out": len(found.whole.test),
                    "settings": {kind: vars(own) for kind, own in found.settings.items()},
                }
                store(json_, json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1).encode())
    for line in notes(rows, found.whole.settings.seed, count):
        print(line)


def line_of(each: Any) -> str:
    """An outcome as a line of the table: - for what could not be measured."""
    shown = "  ".join(f"{_cell(name, each.figures.get(name)):>{width}s}" for name, width in COLUMNS)
    return f"{each.size:6d}  {each.kind:7s}  {shown}"


def notes(rows: list[Any], seed: int, count: int) -> list[str]:
    """What the table is to be read beside."""
    last = rows[-1].figures
    far, near = last["Frechet distance"], last["kernel distance"]
    said = [
        f"{count} images each, seeds 0 to {count - 1}, of held-out reports; seed {seed}; brackets are 95 % intervals",
        f"held-out loss at n {last['held-out loss']['n']}; distances (imagenet) at n {far['n']}, beside "
        f"{far['beside']:.4g} and {near['beside']:.4g} of as many real images of other patients",
    ]
    if "copies" in last:
        said.append(
            f"copies: {last['copies']['beside']:g} of so many unseen real images would count; ratio beside 1, AUC 0.5"
        )
    asked = [name for name in last if "judge" in name]
    for name in asked:
        values = "; ".join(
            f"{row.kind} of {row.size} {row.figures[name]['value']:.3f}" for row in rows if name in row.figures
        )
        beside = f" beside {last[name]['beside']:.3f} on real images" if "beside" in last[name] else ""
        said.append(f"{name} (n {last[name]['n']}){beside}: {values}")
    return said


def sizes_of(text: str) -> list[int]:
    """Numbers of images as people list them: "25,50,100"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 9 and int(part) for part in parts):
        raise ValueError(f"sizes {text[:60]!r}: give numbers of training images with commas between, such as 25,50,100")
    return [int(part) for part in parts]


def _cell(name: str, figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "-"
    if name == "copies":
        return f"{figures['value']:.0f}"
    digits = 1 if name == "Frechet distance" else 4 if name in ("held-out loss", "kernel distance") else 3
    interval = f" [{figures['low']:.{digits}f}, {figures['high']:.{digits}f}]" if "low" in figures else ""
    return f"{figures['value']:.{digits}f}{interval}"
