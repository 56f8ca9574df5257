"""DPM-Solver++: multistep solvers that extrapolate the clean estimate in lambda = -log sigma."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[State]:
    """DPM-Solver++(2M): second order from the estimate of the step before; one evaluation a step.

    Lu et al. 2022, arXiv:2211.01095, Algorithm 2, with lambda = -log sigma. The first step has no estimate before it
    and the step to 0 has h = inf: both are first order.
    """
    return dpmpp_2m_sde(denoise, x, sigmas, eta=0.0)


def dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 1.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """SDE-DPM-Solver++(2M): the same extrapolation on the reverse SDE; one evaluation a step.

    eta    share of the SDE's noise; 0 is `dpmpp_2m`
    seeds  (B,)  one integer per image, needed when eta > 0

    Lu et al. 2022, arXiv:2211.01095, eq. 19 (section 5) for eta = 1. In general, x is
    (below / sigma) e^(-eta h) x + (1 - e^(-(1 + eta) h)) x0 + below sqrt(1 - e^(-2 eta h)) z, h = log(sigma / below).
    """
    check("dpmpp_2m_sde", eta=eta)
    walk = Walk(denoise, x, sigmas, draws=f"dpmpp_2m_sde with eta = {eta}" if eta > 0 else "", seeds=seeds)
    x = walk.x
    before: tuple[Tensor, float] | None = None  # the last step's estimate and its h
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        if below == 0:
            x = x0
        else:
            h = math.log(sigma / below)
            # x0 half a step of lambda further on
            ahead = x0 if before is None else x0 + h / before[1] * (x0 - before[0]) / 2
            x = ahead + (below / sigma) ** (1 + eta) * (x - ahead)
            if eta > 0:
                x = x + below * math.sqrt(-math.expm1(-2 * eta * h)) * walk.noise()
            before = x0, h
        yield walk.state(x, x0)


def dpmpp_3m(denoise: Denoise, x: Tensor, sigmas: Tensor, *, curvature: float = 1.0) -> Iterator[State]:
    """DPM-Solver++(3M): third order from the estimates of two steps before; one evaluation a step.

    curvature  share of the quadratic term. The authors' released code and diffusers take half of it, which is what
               0.5 gives; that is second order

    Lu et al. 2022, arXiv:2211.01095, section 4.2: x0 is a polynomial in lambda through the last three estimates, and
    with it e^lambda x0 is integrated exactly, by the phi functions of appendix A. The first two steps have fewer
    estimates and are of first and second order.
    """
    check("dpmpp_3m", curvature=curvature)
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    past: list[tuple[float, Tensor]] = []  # (lambda, estimate), the latest first
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        past = [(-math.log(sigma), x0), *past[:2]]
        if below == 0:
            x = x0
        else:
            h = math.log(sigma / below)
            phi1 = -math.expm1(-h)  # the integral of e^(lambda - h) over the step; those of its moments follow
            change = phi1 * (x0 - x)
            if len(past) == 2:
                change = change + phi1 / 2 * h * _difference(past)
            if len(past) == 3:
                first, second = _difference(past[:2]), _difference(past)
                slope = first + (past[0][0] - past[1][0]) * second
                change = change + (h - phi1) * slope + curvature * (h**2 - 2 * (h - phi1)) * second
            x = x + change
        yield walk.state(x, x0)


def _difference(points: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Newton's divided difference of two or three points (place, value)."""
    (a, fa), *between, (b, fb) = points
    if not between:
        return (fa - fb) / (a - b)
    return (_difference([points[0], points[1]]) - _difference([points[1], points[2]])) / (a - b)
