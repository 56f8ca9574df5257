"""Comparison: one report by several solvers and counts of steps, from the same noise, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlgen.backbone import Backbone
from vlgen.files import compact, store
from vlgen.generate import sample
from vlgen.images import Images, fit
from vlgen.plan import Plan, plan
from vlgen.sheet import png, sheet


@dataclass(frozen=True)
class Cell:
    """One image of the grid: which row and column, and what was done."""

    solver: str
    steps: int
    plan: Plan
    image: Images


def compare(
    backbone: Backbone,
    report: str,
    solvers: Sequence[str],
    steps: Sequence[int],
    *,
    seed: int = 0,
    kernel_name: str | None = None,
    guidance_scale: float | None = None,
) -> Iterator[Cell]:
    """An image for each solver and count of steps, from the noise of one seed; row by row, as they are finished.

    All is resolved before the first is made: ValueError for whatever cannot be done.
    """
    if not solvers or not steps:
        raise ValueError("a comparison has at least one solver and one count of steps: give both")
    plans = [
        plan(
            backbone,
            report,
            seeds=[seed],
            steps=count,
            solver_name=name,
            kernel_name=kernel_name,
            guidance_scale=guidance_scale,
        )
        for name in solvers
        for count in steps
    ]
    for todo in plans:
        *_, last = sample(backbone, todo)
        assert last.finished is not None
        yield Cell(todo.solver.name, todo.steps, todo, last.finished)


def grid(cells: Sequence[Cell], folder: Path, *, size: int = 192) -> Path:
    """Write the cells of a comparison, all rows of one length, as a labelled sheet: rows are solvers, columns steps.

    Under a solver's name stand the network evaluations of its columns, both halves of guidance counted. The file is
    marked as synthetic and says of every image how it was made; reports are left out of it.
    """
    columns = list(dict.fromkeys(cell.steps for cell in cells))
    across = len(columns)
    if not cells or len(cells) % across or [cell.steps for cell in cells] != columns * (len(cells) // across):
        raise ValueError(f"{len(cells)} cells do not fill rows of {across} counts of steps: give every row all of them")
    rows = [cells[k : k + across] for k in range(0, len(cells), across)]
    labels = [f"{row[0].solver.replace(',', ', ')} nfe {'/'.join(str(cell.plan.nfe) for cell in row)}" for row in rows]
    shown = [[fit(cell.image.shown()[0], size) for cell in row] for row in rows]
    picture = sheet(shown, labels, columns=[f"{count} step{'s' * (count != 1)}" for count in columns])
    public = [
        {key: value for key, value in record.items() if key not in ("report", "negative")}
        for cell in cells
        for record in cell.image.provenance
    ]
    kind = cells[0].plan.modality
    record: dict[str, object] = {"synthetic": True, "modality": kind.name, "unit": "", "sheet": public}
    name = hashlib.sha256(compact(record).encode()).hexdigest()[:8]
    return store(folder / f"{kind.name}_compare_{cells[0].plan.seeds[0]}_{name}.png", png(picture, record))
