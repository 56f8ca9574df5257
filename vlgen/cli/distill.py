"""The commands distill and benchmark fewstep: a student of few evaluations, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import bar, writable
from vlgen.cli.benchmarks import benchmarks
from vlgen.cli.samplers import Model, numbers_of

GIVEN = ("trajectories", "teacher_steps", "guidance_scale", "kernel", "rank", "steps", "batch", "lr", "warmup", "ema",
         "held_out", "mixed", "save_minutes", "seed", "name", "licence")  # fmt: skip


@app.command("distill")
def distill_(
    out: Annotated[Path, typer.Option(help="Folder of the finished adapter, such as adapters/fewstep.")],
    model: Annotated[str, typer.Option(help="The teacher: mini, a folder, or a hub id from the cache.")] = "mini",
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="A table of reports, or a folder with one; repeatable, in turn. Composed ones if none."),
    ] = None,
    nfe: Annotated[str, typer.Option(help="Counts of evaluations that the student learns.")] = "1,2,4",
    trajectories: Annotated[int | None, typer.Option(help="Walks of the teacher; 4000 if not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; 800 if not given.")] = None,
    batch: Annotated[int | None, typer.Option(help="Trajectories of a step; 24 if not given.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA's; 16 if not given.")] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="attention, wide, or ends of modules' names; wide and time_emb_proj if none."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 1e-3 if not given.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps until the full learning rate; 50 if not given.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights; 0.99 if not given.")] = None,
    kernel: Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D; the weights' own if not given.")] = None,
    teacher_steps: Annotated[int | None, typer.Option(help="Of the teacher; the model's own if not given.")] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance", "--guidance-scale", help="Of the teacher; the model's own if not given."),
    ] = None,
    held_out: Annotated[int | None, typer.Option(help="Walks of the audit; 64 if not given.")] = None,
    mixed: Annotated[
        str | None, typer.Option(help="bf16 or no; what this machine computes quickly, if not given.")
    ] = None,
    save_minutes: Annotated[float | None, typer.Option(help="Minutes between checkpoints; 2 if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapter; its folder's if not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights; the model's if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with levels and time, and stop.")] = False,
) -> None:
    """Distill a model into an adapter of few evaluations without guidance; repeat the same command to resume."""
    given: dict[str, Any] = {key: value for key, value in locals().items() if key in GIVEN and value is not None}
    from vlgen.backbone import load
    from vlgen.distill import distill, outline

    given |= {"nfe": tuple(numbers_of(nfe))} | ({"targets": tuple(targets)} if targets else {})
    backbone = load(model)
    if dry_run:
        for line in outline(backbone, out=out, texts=texts or (), **given):
            print(line)
        return
    writable(out.parent)
    from vlgen.adapter import read
    from vlgen.cli.train import _Bar, report

    with _Bar(given.get("batch", 24), quiet=False) as show:
        for step in distill(backbone, out=out, texts=texts or (), **given):
            show(step)
    report(read(out).audit)
    print(f"the adapter is in {out}; its log and contact sheet are in {out.with_name(f'{out.name}.training')}")


@benchmarks.command("fewstep")
def fewstep(
    real: Annotated[str, typer.Argument(help="Held-out images; FOLDER:column=value takes a part.")],
    reports: Annotated[str, typer.Option(help="Folder of training images with a metadata.csv: the texts.")],
    adapter: Annotated[str, typer.Option(help="The student: an adapter of vlgen distill.")],
    model: Model = "mini",
    count: Annotated[int, typer.Option(min=10, help="Images of each way; at most half of the real ones.")] = 200,
    features: Annotated[str, typer.Option(help="As of vlgen evaluate.")] = "imagenet",
    repeats: Annotated[int, typer.Option(min=1, help="Images that are timed; the fastest counts.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, texts and halves.")] = 0,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File for the rows; repeat the command to go on from there.")
    ] = None,
) -> None:
    """How real a student's images are at each count of evaluations, beside the model at few and at many, and the cost.

    Ratios are to the model in 20 steps with guidance: the same noise, the same texts.
    """
    from dataclasses import asdict

    from vlgen.benchmark.fewstep import FewStepStudy
    from vlgen.files import store

    if json_:
        writable(json_.parent)
    study = FewStepStudy(
        real,
        reports,
        adapter,
        model=model,
        count=count,
        features=features,
        repeats=repeats,
        seed=seed,
        folder=json_.with_name(f"{json_.name}.features") if json_ else None,
    )
    rows: list[dict[str, Any]] = []
    print("nfe  guidance  Frechet [95 %]         ratio [95 %]           kernel x 1000 [95 %]    wall ms  CPU ms  way")
    with bar(None, quiet=False) as advance:
        for row in study.run(advance):
            kernel = [1000 * value for value in row.kernel_distance]
            print(
                f"{row.nfe:3d}  {row.guidance_scale:8g}  {span(row.frechet, '.1f'):22s} {span(row.ratio, '.2f'):22s} "
                f"{span(kernel, '.1f'):24s} {row.wall_ms:6.0f}  {row.cpu_ms:6.0f}  {row.way.who}, {row.steps} steps",
                flush=True,
            )
            rows.append(asdict(row))
            if json_:
                facts = {"real": real, "n": row.n, "seed": seed, "rows": rows}
                store(json_, f"{json.dumps(facts, indent=1)}\n".encode())
    frechet, distance = row.reference
    print(
        f"two real halves of {row.n}: Frechet {frechet:.1f}, kernel distance x 1000 {1000 * distance:.1f}; seed {seed}"
        f"; times of one image on {row.threads} threads, its text ready, the fastest of {repeats}"
    )
    if json_:
        print(json_)


def span(values: Sequence[float], digits: str) -> str:
    """A figure and its interval: 12.3 [11.0, 13.5]."""
    figure, low, high = (f"{value:{digits}}" for value in values)
    return f"{figure} [{low}, {high}]"
