"""Choice: the levels that a call will walk down, as asked, as searched, or as the model's makers set them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlgen.schedules.named import schedule
from vlgen.schedules.stored import Stored

SEARCHED, DISTILLED = "searched", "distilled"


def choose(
    name: str | None,
    n: int,
    table: Tensor,
    own: Mapping[str, Any],
    searched: Sequence[Stored],
    distilled: Sequence[float] | None = None,
) -> tuple[str, Tensor]:
    """The schedule's name and its levels (n + 1,), inside what the network was trained on.

    name       as the user asked: a schedule's, "searched" or "distilled"; None takes distilled levels, or else searched
               ones, or else the model's own
    table      (T,)  the sigmas that the network was trained on, increasing
    own        of the model's makers: schedule, sigma_min, sigma_max
    searched   levels that were searched for these very settings: one or none
    distilled  levels (n + 1,) that a distilled adapter was trained to walk in n steps, if there is one
    """
    if distilled is not None and name in (None, DISTILLED):
        name, sigmas = DISTILLED, torch.tensor(distilled, dtype=torch.float64).float()
        lo, hi = float(sigmas[-2]), float(sigmas[0])
    elif name == DISTILLED:
        raise ValueError(f"no adapter here was distilled for {n} steps: use one that was, or another schedule")
    elif searched and name in (None, SEARCHED):
        name, sigmas = SEARCHED, searched[0].levels
        lo, hi = float(sigmas[-2]), float(sigmas[0])
    elif name == SEARCHED:
        raise ValueError(
            f"no levels were searched for {n} steps of this model with this solver, kernel and guidance: search them "
            "with `vlgen schedule search`, or use another schedule"
        )
    else:
        name = str(name or own["schedule"])
        lo, hi = float(own.get("sigma_min", table[0])), float(own.get("sigma_max", table[-1]))
        if name == "trailing":  # it walks down the trained table itself, from its top
            lo, hi = float(table[0]), float(table[-1])
        sigmas = schedule(name, n, lo, hi, table)
    if lo < float(table[0]) * 0.999 or hi > float(table[-1]) * 1.001:
        raise ValueError(f"sigma from {lo:g} to {hi:g} leaves the trained range {table[0]:g} to {table[-1]:g}")
    return name, sigmas
