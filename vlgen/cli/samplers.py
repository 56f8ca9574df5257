"""Commands about solvers: samplers, compare, schedule search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import Json, bar, text_of, writable

Model = Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")]
Adapters = Annotated[list[str] | None, typer.Option(help="Adapter folder, with :SCALE if not 1; repeatable.")]
KernelName = Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D; the weights' own if not given.")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", "--guidance-scale", help="1 is no guidance; the model's own if not given.")
]


@app.command()
def samplers(json_: Json = False) -> None:
    """List the solvers: what they cost, whether they draw noise, what can be set, and which swaps are free."""
    from vlgen.kernels import Gaussian, PFGMpp
    from vlgen.samplers.swaps import swaps
    from vlgen.solvers import samplers as known

    rows: list[dict[str, Any]] = [dict(row) for row in known()]
    groups = swaps(Gaussian(), PFGMpp(128))
    if json_:
        found = {name: verdicts for names, verdicts in groups for name in names}
        for row in rows:
            row["swaps"] = [[*pair, verdict] for pair, verdict in found[str(row["name"])].items()]
        print(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "order", "evaluations\na step", "draws\nnoise", "kernels", "options"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for row in rows:
        order = str(row["order"]) if row["order"] else "-"
        drawn = "yes" if row["stochastic"] else "no"
        table.add_row(str(row["name"]), order, str(row["evaluations"]), drawn, str(row["kernels"]), str(row["options"]))
    Console().print(table)
    print('"-" is no order in the steps alone; papers are in --json')
    print('options follow a colon: --solver "heun:churn=40"; the first needs no name: --solver ddim:0.5')
    for names, verdicts in groups:
        print(f"\nswaps for {', '.join(names)}:")
        for (trained, asked), verdict in verdicts.items():
            print(f"  weights of {trained:12s} --kernel {asked:12s} {verdict}")
    print("another D is another kernel; an option that makes a solver draw noise puts it among those that do")


@app.command()
def compare(
    text: Annotated[str, typer.Argument(help="A report: its text, @FILE, or - for standard input.")],
    solvers: Annotated[str, typer.Option(help="Names with commas between: the rows.")] = "euler,heun,dpmpp_2m,unipc",
    steps: Annotated[str, typer.Option(help="Counts of solver steps: the columns.")] = "5,10,20",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise that every image starts from.")] = 0,
    model: Model = "mini",
    adapter: Adapters = None,
    kernel: KernelName = None,
    guidance: Guidance = None,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side of each picture.")] = 192,
    out: Annotated[Path, typer.Option(help="Folder for the sheet.")] = Path("out"),
) -> None:
    """One report by several solvers and counts of steps from the same noise, on one labelled sheet."""
    from vlgen.backbone import load
    from vlgen.samplers import compare as cells_of
    from vlgen.samplers import grid

    report, names, counts = text_of(text), names_of(solvers), numbers_of(steps)
    backbone = load(model, adapter=adapter or ())
    writable(out)
    cells = []
    with bar(len(names) * len(counts), quiet=False) as advance:
        made = cells_of(backbone, report, names, counts, seed=seed, kernel_name=kernel, guidance_scale=guidance)
        for cell in made:
            cells.append(cell)
            advance(1)
    print(grid(cells, out, size=size))


schedule = typer.Typer(help="Noise levels: search those that suit a solver best.", rich_markup_mode=None)
app.add_typer(schedule, name="schedule")


@schedule.callback()
def _schedule() -> None:
    """Noise levels: search those that suit a solver best."""


@schedule.command("search")
def search(
    model: Model = "mini",
    adapter: Adapters = None,
    solver: Annotated[
        str | None, typer.Option(help="Deterministic; see vlgen samplers. The model's own if none.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Counts of steps.")] = "5,6,8,10",
    kernel: KernelName = None,
    guidance: Guidance = None,
    images: Annotated[int, typer.Option(min=1, help="Start noises, each with a text of its own.")] = 6,
    fine: Annotated[int, typer.Option(min=2, help="Levels that the table of the search has.")] = 24,
    sweeps: Annotated[int, typer.Option(min=0, help="Rounds of fine search after the table.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of noises and texts.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="File; schedules.json beside the model or its one adapter if not given.")
    ] = None,
    json_: Json = False,
) -> None:
    """Search the levels at which a solver comes closest to a 200-step Heun from the same noise; the better are kept.

    `vlgen generate` takes them where model, solver, kernel, guidance and steps are these.
    """
    from vlgen.backbone import load
    from vlgen.samplers import search_levels, shelve
    from vlgen.schedules import home

    counts = numbers_of(steps)
    backbone = load(model, adapter=adapter or ())
    folder = out.parent if out else home(backbone.folder, backbone.carried.values())
    if folder is None:
        raise ValueError("these adapters have no folder in common to keep levels in: name a file with --out")
    writable(folder)
    say = (lambda _: None) if json_ else print
    found: list[Any] = []
    file: Path | None = None
    for each in search_levels(
        backbone,
        counts,
        solver_name=solver,
        kernel_name=kernel,
        guidance_scale=guidance,
        images=images,
        fine=fine,
        sweeps=sweeps,
        seed=seed,
    ):
        found.append(each)
        better = each.miss < each.named
        if better:
            file = shelve(backbone, [each], out)  # at once, so that Ctrl-C keeps what is done
        levels = " ".join(f"{sigma:.3g}" for sigma in each.levels.sigmas)
        say(
            f"{each.levels.steps} steps of {each.levels.solver}: distance {each.miss:.4f}, by {each.schedule} "
            f"{each.named:.4f} ({each.miss / each.named:.2f}): {levels}{'' if better else ', not kept: no better'}"
        )
    if json_:
        rows = [dict(each.levels.made) | {"steps": each.levels.steps, "sigmas": each.levels.sigmas} for each in found]
        print(json.dumps({"file": str(file) if file else None, "schedules": rows}))
    elif file:
        print(file)


def print_ratios(json_: bool) -> None:
    """`vlgen benchmark schedules`: searched levels against the best of diffusers', on the exact mixture."""
    from vlgen.benchmark import schedule_ratios

    rows = []
    for row in schedule_ratios():
        rows.append(row)
        if not json_:
            print(
                f"{row['kernel']:10s} {row['evaluations']:2d} evaluations  {row['solver']} {row['distance']:.4f}  "
                f"{row['best_of_diffusers']} {row['their_distance']:.4f}  ratio {row['ratio']:.2f}",
                flush=True,
            )
    if json_:
        print(json.dumps(rows))


def print_quality(model: str, out: Path | None, json_: bool) -> None:
    """`vlgen benchmark samplers`: every solver's distance to the exact path on a model, by its evaluations."""
    from dataclasses import asdict

    from vlgen.backbone import load
    from vlgen.files import store
    from vlgen.samplers import plot, quality

    if out:
        writable(out.parent)
    points = []
    for point in quality(load(model)):
        points.append(point)
        if not json_:
            drawn = "  draws noise" * point.stochastic
            print(
                f"{point.solver:20s} {point.evaluations:3d} evaluations  distance {point.distance:.4f}  "
                f"{point.schedule}{drawn}",
                flush=True,
            )
    if out:
        store(out, plot(points, f"Samplers on {model}").encode())
    if json_:
        print(json.dumps([asdict(point) for point in points]))
    elif out:
        print(out)


def names_of(text: str) -> list[str]:
    """Solvers as people list them: "heun,ipndm:3,last=2,unipc"; what holds = belongs to the name before."""
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if "=" in part and ":" not in part and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    if not found:
        raise ValueError(f"solvers {text[:60]!r} name none: give names with commas between, such as heun,dpmpp_2m")
    return found


def numbers_of(text: str) -> list[int]:
    """Counts of steps as people list them: "5,10,20", each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 1000 for part in parts):
        raise ValueError(f"steps {text[:60]!r}: give whole numbers from 1 to 1000 with commas between, such as 5,10,20")
    return list(dict.fromkeys(int(part) for part in parts))
