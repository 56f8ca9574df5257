"""Distilled: what an adapter says of itself that was trained to need few evaluations, each count by its own levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlgen.solvers import solver

FIELDS = ("guidance_scale", "levels", "solver", "steps")


@dataclass(frozen=True)
class Distilled:
    """A distilled adapter that acts on a backbone.

    name            of the adapter
    solver          that its steps were trained for
    steps           the count of evaluations that is the default
    guidance_scale  of its teacher: learned already, so that none is added
    levels          count -> its own levels, decreasing, the last 0; the network is told nothing but these
    scale, others   how strongly the adapter acts, and the names of those that act beside it
    """

    name: str
    solver: str
    steps: int
    guidance_scale: float
    levels: Mapping[int, tuple[float, ...]]
    scale: float = 1.0
    others: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """What a call takes where nothing else is asked for."""
        return {"solver": self.solver, "steps": self.steps, "guidance_scale": 1.0, "guidance_rescale": 0.0}

    def notes(self, solver_name: str, steps: int, guidance_scale: float) -> list[str]:
        """What a user should know whose call is not what the adapter was distilled for."""
        found, lead = [], f"adapter {self.name} was distilled for"
        if steps not in self.levels:
            *most, last = map(str, sorted(self.levels))
            counts = f"{', '.join(most)} and {last}" if most else last
            found.append(f"{lead} {counts} steps, and for {steps} it has no levels: expect worse images")
        if solver_name != self.solver:
            found.append(f"{lead} solver {self.solver}, and {solver_name} takes other steps: expect worse images")
        if guidance_scale != 1:
            found.append(
                f"adapter {self.name} has learned guidance {self.guidance_scale:g} by heart: {guidance_scale:g} comes "
                "on top of it"
            )
        if self.scale != 1:
            found.append(f"{lead} scale 1, and acts at {self.scale:g}: expect worse images")
        if self.others:
            found.append(f"{lead} few steps without {', '.join(self.others)}: together they are less exact than alone")
        return found


def distilled(carried: Iterable[Any]) -> Distilled | None:
    """The distilled adapter among those that a backbone carries, if one acts."""
    acting = [each for each in carried if each.scale != 0]
    for each in acting:
        said = each.adapter.distilled
        if said:
            levels = {len(row) - 1: tuple(map(float, row)) for row in said["levels"]}
            others = tuple(other.adapter.name for other in acting if other is not each)
            strength = said["guidance_scale"]
            return Distilled(each.adapter.name, said["solver"], said["steps"], strength, levels, each.scale, others)
    return None


def check_distilled(said: object, name: str) -> None:
    """Raise a ValueError where what a contract says of its distillation cannot be; nothing said is as good."""
    if said == {}:
        return
    whole = f"adapter {name}: its field distilled"
    if not isinstance(said, Mapping) or sorted(said) != list(FIELDS):
        raise ValueError(f"{whole} must hold {', '.join(FIELDS)}, or nothing")
    levels, scale = said["levels"], said["guidance_scale"]
    rows: Sequence[Any] = levels if isinstance(levels, list | tuple) else ()
    if not rows or not all(isinstance(row, list | tuple) and _falls(row) for row in rows):
        raise ValueError(f"{whole} must hold rows of levels that fall to 0")
    counts = [len(row) - 1 for row in rows]
    if len(set(counts)) < len(counts) or type(said["steps"]) is not int or said["steps"] not in counts:
        raise ValueError(f"{whole} must hold one row of levels for each count, and one of the counts as steps")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale <= 100:
        raise ValueError(f"{whole} must hold a guidance_scale from 0 to 100")
    if not isinstance(said["solver"], str):
        raise ValueError(f"{whole} must name a solver")
    solver(said["solver"])


def _falls(row: Sequence[Any]) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in row)
    return numbers and len(row) > 1 and row[-1] == 0 and all(above > below for above, below in pairwise(row))
