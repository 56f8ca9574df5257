"""Commands that make images and read back how they were made: generate, info, sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import Compile, Json, Precision, bar, seed_list, text_of, writable

if TYPE_CHECKING:
    from vlgen.backbone import Backbone


@app.command()
def generate(
    text: Annotated[str | None, typer.Argument(help="A report: its text, @FILE, or - for standard input.")] = None,
    reports: Annotated[
        Path | None,
        typer.Option(help="A metadata.csv, or a folder with one: an image for each row, and a table of them in --out."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --reports: so many images of rows by chance.")] = None,
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    adapter: Annotated[list[str] | None, typer.Option(help="Adapter folder, with :SCALE if not 1; repeatable.")] = None,
    force_adapter: Annotated[
        bool, typer.Option("--force-adapter", help="Take one whose contract is for another model; every image says so.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="One integer per image: 0-3 or 1,5,9.")] = "0-3",
    steps: Annotated[int | None, typer.Option(help="Solver steps; the model's own number if not given.")] = None,
    solver: Annotated[str | None, typer.Option(help="By name, options after a colon; see vlgen samplers.")] = None,
    schedule: Annotated[str | None, typer.Option(help="karras, exponential, uniform, trailing, searched.")] = None,
    kernel: Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D; the weights' own if not given.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 is no guidance.")] = None,
    negative: Annotated[str, typer.Option(help="What the images should not show: text, or @FILE.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out"),
    format: Annotated[str, typer.Option(help="png, npy or dicom.")] = "png",
    grid: Annotated[bool, typer.Option("--grid", help="A contact sheet besides.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="One image at a time: the same bits in any batch.")] = False,
    precision: Precision = "float32",
    compile: Compile = False,
    keep_report: Annotated[bool, typer.Option("--keep-report", help="Put the text itself into the files.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    json_: Json = False,
) -> None:
    """Make images of a report."""
    from vlgen.backbone import load
    from vlgen.generate import collect, sample
    from vlgen.images import ENDINGS, write
    from vlgen.plan import plan

    if (text is None) == (reports is None):
        raise ValueError("give either a report or --reports: a text, @FILE, - or a metadata.csv")
    report = text_of(text or "")
    if format not in ENDINGS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(ENDINGS)}")
    numbers = seed_list(seeds)
    backbone = load(model, adapter=adapter or (), force_adapter=force_adapter, precision=precision, compile=compile)
    settings: dict[str, Any] = {
        "steps": steps,
        "solver_name": solver,
        "schedule_name": schedule,
        "kernel_name": kernel,
        "guidance_scale": guidance_scale,
        "negative": text_of(negative) if negative else "",
        "exact": exact,
    }
    if reports:
        _table(backbone, reports, count, numbers[0], out, format, keep_report, json_, settings)
        return
    todo = plan(backbone, report, seeds=numbers, **settings)
    if not dry_run:
        writable(out)
    if format == "dicom" and keep_report and len(report) > 4_000:
        raise ValueError(f"a report of {len(report):,} characters does not fit into DICOM: leave --keep-report out")
    say = (lambda _: None) if json_ else print
    say(todo.line())
    tokens = todo.tokens
    say(f"tokens kept {tokens.kept} in {len(tokens.chunks)} chunk(s), dropped {tokens.dropped}")
    for note in todo.notes:
        say(f"note: {note}")
    paths: list[Path] = []
    if not dry_run:
        parts = []
        with bar(len(todo.seeds) * todo.steps, quiet=json_) as advance:
            for progress in sample(backbone, todo):
                advance(len(progress.preview))
                if progress.finished:  # written at once, so that Ctrl-C keeps what is done
                    parts += [progress.finished] * grid
                    paths += write(progress.finished, out, format=format, keep_report=keep_report)
        if grid:
            paths = write(collect(parts), out, format=format, keep_report=keep_report, grid=True)
    for path in paths:
        say(str(path))
    if json_:
        print(json.dumps(todo.record() | {"files": [str(path) for path in paths]}))


def _table(
    backbone: Backbone,
    reports: Path,
    count: int | None,
    seed: int,
    out: Path,
    format: str,
    keep_report: bool,
    json_: bool,
    settings: dict[str, Any],
) -> None:
    """An image for each row of a table of reports, and a metadata.csv that `vlgen evaluate` reads."""
    import csv
    import io

    from vlgen.dataset import texts
    from vlgen.files import store
    from vlgen.generate import illustrate
    from vlgen.images import write

    chosen = texts(reports, count, seed)
    writable(out)
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["file_name", "text"])
    exact = bool(settings["exact"])
    with bar(len(chosen), quiet=json_) as advance:
        seeds = range(seed, seed + len(chosen))
        for place, image in illustrate(backbone, chosen, seeds=seeds, batch=1 if exact else 8, **settings):
            [path] = write(image, out, format=format, keep_report=keep_report)
            rows.writerow([path.name, chosen[place]])
            store(out / "metadata.csv", table.getvalue().encode())  # at once, so that Ctrl-C keeps what is done
            advance(1)
    if json_:
        print(json.dumps({"images": len(chosen), "table": str(out / "metadata.csv"), "first_seed": seed}))
    else:
        print(f"{len(chosen)} images, seeds {seed} to {seeds[-1]}; their texts are in {out / 'metadata.csv'}")


@app.command()
def info(file: Annotated[Path, typer.Argument(help="A file that vlgen wrote.")], json_: Json = False) -> None:
    """Read back how a file was made, and the command that makes it again."""
    from vlgen.images import info as read
    from vlgen.plan import again

    found = read(file)
    if json_:
        print(json.dumps(found))
        return
    for key, value in found.items():
        if key != "sheet":
            print(f"{key:20s} {value}")
    if "seed" in found:
        print(f"{'again':20s} {again(found)}")
        if "report" not in found:
            print(f"{'':20s} where REPORT.txt holds the text whose sha256 is above")


@app.command()
def sheet(
    texts: Annotated[list[str], typer.Argument(help="A row each: reports, or @FILE with one a line.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out/sheet.png"),
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    adapter: Annotated[list[str] | None, typer.Option(help="Folder or name, with :SCALE if not 1; repeatable.")] = None,
    force_adapter: Annotated[
        bool, typer.Option("--force-adapter", help="Take one whose contract is for another model; the sheet says so.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="The columns: consecutive seeds, never chosen ones.")] = "0-5",
    size: Annotated[int, typer.Option(help="Pixels a side of each picture on the sheet.")] = 128,
) -> None:
    """A contact sheet: rows are texts, which are drawn into it, columns are seeds."""
    from vlgen.backbone import load
    from vlgen.generate import contact

    rows = [
        line for text in texts for line in (text_of(text).splitlines() if text[:1] == "@" else [text]) if line.strip()
    ]
    backbone = load(model, adapter=adapter or (), force_adapter=force_adapter)
    writable(out.parent)
    print(contact(backbone, rows, seed_list(seeds), out, size=size))
