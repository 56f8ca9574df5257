"""What the commands share: texts, seeds, folders and progress, as people give and see them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One machine-readable object on stdout, and nothing else there.")]

Precision = Annotated[
    str, typer.Option(help="float32; bf16, quicker where the machine has units for it; auto, the quicker of them.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Let torch.compile take minutes once, to be quicker in every step after.")
]


def text_of(text: str) -> str:
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


def writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".vlgen-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write into {folder} ({error.strerror}): choose another with --out") from None


class bar:
    """Progress bars on stderr; nothing where it is quiet or nobody watches.

    Inside the `with` it is a function: of the steps done since the last call, where `total` was given, or of what is
    being done, how much of it, and of how much: one bar for each thing.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self.total, self.quiet = total, quiet or not sys.stderr.isatty()

    def __enter__(self) -> Any:
        if self.quiet:
            return lambda *_: None
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True), transient=True)
        self.progress.start()
        if self.total is not None:
            task = self.progress.add_task("sampling", total=self.total)
            return lambda steps: self.progress.advance(task, steps)
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = self.progress.add_task(what, total=total)
            self.progress.update(tasks[what], completed=done, total=total)

        return show

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self.progress.stop()
