"""UniPC: a predictor in the clean estimate, and a corrector that costs no evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from vlgen.solvers.adams import exponential_weights
from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 2) -> Iterator[State]:
    """UniPC, data prediction, B(h) = e^h - 1: the network's answer at the predicted point corrects the step behind it.

    order  1 to 3, of the predictor. That of the whole is 2 for 1, and 3 for 2 and for 3: the last two evaluations are
           at predictions, of order 2 at most, which nothing corrects. One evaluation a step

    State.x is the predicted point; the correction enters with the next evaluation. Zhao et al. 2023, arXiv:2302.04867,
    Algorithms 5 and 6 and eqs. 3 and 9. For three and more points their weights are those of the exponential
    integrator that interpolates them, whatever B(h) is; for two the paper's short form a_1 = 1/2 is used, as by its
    authors. The order falls towards the end: the last step but one is of order 2.
    """
    check("unipc", order=order)
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    past: list[tuple[float, Tensor]] = []  # (lambda, estimate), the latest first
    start = x  # the corrected point that the last prediction left from
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        here = -math.log(sigma)
        if past:
            x = _step(start, past, here, (here, x0))
        kept = min(order, walk.steps - walk.i + 1)
        past, start = [(here, x0), *past][:kept], x
        x = x0 if below == 0 else _step(x, past, -math.log(below))
        yield walk.state(x, x0)


def _step(x: Tensor, past: list[tuple[float, Tensor]], end: float, ahead: tuple[float, Tensor] | None = None) -> Tensor:
    """From past[0]'s level to lambda = end by the estimates of the past and, in a correction, of the point ahead."""
    start = past[0][0]
    points = [ahead, *past] if ahead else past
    if len(points) == 2:  # a_1 = 1/2
        place, other = points[0] if ahead else points[1]
        share = 0.5 * (end - start) / (place - start)
        weights = [-math.expm1(start - end) * part for part in (1 - share, share)]
        values = [past[0][1], other]
    else:
        weights = exponential_weights([place for place, _ in points], start, end)
        values = [value for _, value in points]
    x = math.exp(start - end) * x
    for weight, value in zip(weights, values, strict=True):
        x = x + weight * value
    return x
