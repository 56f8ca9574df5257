"""The log of a training: a table of numbers, one line a step, each step once whatever happened on the way."""

from __future__ import annotations

import csv
from pathlib import Path


def cut(path: Path, step: int) -> None:
    """Drop the log's lines beyond a step, which will be done again, and torn ones; all of them for step 0."""
    if not step:
        path.unlink(missing_ok=True)
    elif path.exists():
        with open(path, newline="") as file:
            header, *lines = [*csv.reader(file)] or [[]]
        aside = path.with_suffix(".tmp")
        with open(aside, "w", newline="") as file:
            whole = [line for line in lines if len(line) == len(header) and line[0].isdecimal()]
            csv.writer(file).writerows([header] * bool(header) + [line for line in whole if int(line[0]) <= step])
        aside.replace(path)


def write(path: Path, step: int, figures: dict[str, float]) -> None:
    """Add the line of a step, after a header where there is none."""
    new = not path.exists() or not path.stat().st_size
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *figures])
        writer.writerow([step, *(f"{value:.6g}" for value in figures.values())])
