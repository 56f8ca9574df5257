"""The command line: every command prints what it resolved, does one job, and ends with one sentence when it cannot."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Medical images from words. Everything that is written is synthetic and says so.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="One machine-readable object on stdout, and nothing else there.")]


@app.command()
def generate(
    text: Annotated[str, typer.Argument(help="A report: its text, @FILE, or - for standard input.")],
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    adapter: Annotated[list[str] | None, typer.Option(help="Adapter folder, with :SCALE if not 1; repeatable.")] = None,
    seeds: Annotated[str, typer.Option(help="One integer per image: 0-3 or 1,5,9.")] = "0-3",
    steps: Annotated[int | None, typer.Option(help="Solver steps; the model's own number if not given.")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, ddim, ddim:ETA, heun, dpmpp_2m.")] = None,
    schedule: Annotated[str | None, typer.Option(help="karras, exponential, uniform, trailing.")] = None,
    kernel: Annotated[str | None, typer.Option(help="gaussian, or pfgmpp:D; the weights' own if not given.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 is no guidance.")] = None,
    negative: Annotated[str, typer.Option(help="What the images should not show: text, or @FILE.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out"),
    format: Annotated[str, typer.Option(help="png, npy or dicom.")] = "png",
    grid: Annotated[bool, typer.Option("--grid", help="A contact sheet besides.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="One image at a time: the same bits in any batch.")] = False,
    keep_report: Annotated[bool, typer.Option("--keep-report", help="Put the text itself into the files.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    json_: Json = False,
) -> None:
    """Make images of a report."""
    from vlgen.backbone import load
    from vlgen.generate import collect, sample
    from vlgen.images import ENDINGS, write
    from vlgen.plan import plan

    report = _text(text)
    if format not in ENDINGS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(ENDINGS)}")
    numbers = seed_list(seeds)
    backbone = load(model, adapter=adapter or ())
    todo = plan(
        backbone,
        report,
        seeds=numbers,
        steps=steps,
        solver_name=solver,
        schedule_name=schedule,
        kernel_name=kernel,
        guidance_scale=guidance_scale,
        negative=_text(negative) if negative else "",
        exact=exact,
    )
    if not dry_run:
        _writable(out)
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
        with _bar(len(todo.seeds) * todo.steps, quiet=json_) as advance:
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
def models(json_: Json = False) -> None:
    """List the models that can be used now: the bundled one, and those in the hub cache."""
    from vlgen.folder import available

    found = available()
    if json_:
        print(json.dumps(found))
        return
    for each in found:
        print(
            f"{each['name']:40s} {each['where']:8s} {each['size_mib']:8.1f} MiB  {each['licence']:20s} {each['card']}"
        )


@app.command("pretrain")
def pretrain_(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; vlgen/recipes/mini.toml is the bundled model's.")],
    stage: Annotated[list[str] | None, typer.Option(help="codec, clip or diffusion; all three if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for caches, checkpoints and the finished model.")] = Path("runs"),
    data: Annotated[Path | None, typer.Option(help="Folder of the sources, in place of the recipe's own.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print rows, parameters and steps, and stop.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure --model on the held-out rows, and stop.")] = False,
    model: Annotated[str, typer.Option(help="What --measure measures.")] = "mini",
) -> None:
    """Train a model from scratch; repeat the same command to resume."""
    from vlgen.pretrain import STAGES, Recipe, outline, pretrain
    from vlgen.pretrain import measure as figures_of

    read = Recipe.read(recipe, data=data)
    stages = tuple(stage or STAGES)
    if unknown := set(stages) - set(STAGES):
        raise ValueError(f"unknown stage {sorted(unknown)[0]!r}: choose of {', '.join(STAGES)}")
    folder = out / read.name
    if dry_run:
        for line in outline(read, stages):
            print(line)
        return
    if measure:
        print(json.dumps(figures_of(read, model, folder), indent=1))
        return
    _writable(out)
    for done, step in enumerate(pretrain(read, folder, stages=stages)):
        if step.step % 50 == 0 or step.step == step.steps or not done:
            left = (step.steps - step.step) * read.training[step.stage].batch / max(step.images_per_second, 1e-9)
            figures = "  ".join(f"{name} {value:.4g}" for name, value in step.figures.items())
            print(
                f"{step.stage} {step.step}/{step.steps}  {figures}  {step.images_per_second:.1f} images/s  "
                f"{left / 60:.0f} min left",
                flush=True,
            )
    print(f"the finished parts are in {folder / 'parts'}")


@app.command()
def sheet(
    texts: Annotated[list[str], typer.Argument(help="A row each: reports, or @FILE with one a line.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out/sheet.png"),
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    seeds: Annotated[str, typer.Option(help="The columns: consecutive seeds, never chosen ones.")] = "0-5",
    size: Annotated[int, typer.Option(help="Pixels a side of each picture on the sheet.")] = 128,
) -> None:
    """A contact sheet: rows are texts, which are drawn into it, columns are seeds."""
    from vlgen.backbone import load
    from vlgen.generate import contact

    rows = [
        line for text in texts for line in (_text(text).splitlines() if text[:1] == "@" else [text]) if line.strip()
    ]
    _writable(out.parent)
    print(contact(load(model), rows, seed_list(seeds), out, size=size))


@app.command()
def benchmark(
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the fastest counts.")] = 3,
    json_: Json = False,
) -> None:
    """Time loading the model, one image and four images at the default settings, after a warm-up."""
    from vlgen.benchmark import timing

    found = timing(model, repeats)
    if json_:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name:24s} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 7860,
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
) -> None:
    """Open a page in the browser that makes images of a report; it answers this machine alone."""
    import importlib.util

    from vlgen.folder import beside

    spec = importlib.util.spec_from_file_location("vlgen_demo_generate", beside("demos") / "generate.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    page.launch(model, port)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake ends in one sentence and exit code 2, Ctrl-C in 130; no traceback."""
    try:
        code = app((sys.argv[1:] if arguments is None else arguments) or ["--help"], standalone_mode=False) or 0
    except _UsageError as error:
        code = _refuse(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        print("\nstopped; what was finished is kept", file=sys.stderr)
        code = 130
    except (ValueError, OSError) as error:
        code = _refuse(str(error))
    except FloatingPointError as error:
        print(f"vlgen: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


_UsageError: Any = typer.BadParameter.__mro__[1]  # click's own, or that of the click inside newer releases of typer


def _refuse(sentence: str) -> int:
    print(f"vlgen: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _text(text: str) -> str:
    """The text of an argument: itself, a file's after @, or standard input's for -."""
    if text == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    if text[:1] == "@":
        try:
            return Path(text[1:]).read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise ValueError(f"the report {text[1:]} cannot be read ({error.strerror}): give a text file") from None
    return text


def seed_list(text: str) -> list[int]:
    """Seeds as people write them: "0-3,7" is 0, 1, 2, 3, 7."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or max(len(first), len(last)) > 19 or int(first) > int(last):
            raise ValueError(f"seeds {text[:60]!r}: give rising whole numbers such as 0-3 or 1,5,9")
        if len(found) + int(last) - int(first) >= 10_000:
            raise ValueError(f"seeds {text[:60]!r}: give at most 10000 of them")
        found += range(int(first), int(last) + 1)
    return found


def _writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".vlgen-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write into {folder} ({error.strerror}): choose another with --out") from None


class _bar:
    """A progress bar on stderr; nothing where it is quiet or nobody watches."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.total, self.quiet = total, quiet or not sys.stderr.isatty()

    def __enter__(self) -> Any:
        if self.quiet:
            return lambda _: None
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True), transient=True)
        self.progress.start()
        task = self.progress.add_task("sampling", total=self.total)
        return lambda steps: self.progress.advance(task, steps)

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self.progress.stop()
