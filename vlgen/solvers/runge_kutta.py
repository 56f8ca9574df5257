"""Runge-Kutta solvers of the probability-flow ODE: Euler, Heun with churn, and Dormand-Prince with a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[State]:
    """Euler's method on the probability-flow ODE; one evaluation a step. The same as DDIM with eta = 0."""
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        x = x0 + below / sigma * (x - x0)
        yield walk.state(x, x0)


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    tmin: float = 0.0,
    tmax: float = math.inf,
    noise: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Heun's method on the probability-flow ODE; two evaluations a step, one at the last.

    churn       how much noise the whole walk adds and removes again; 0 is deterministic
    tmin, tmax  the levels between which it does
    noise       the standard deviation of what is added, above 1 to make up for detail lost
    seeds       (B,)  one integer per image, needed when churn > 0

    Karras et al. 2022, arXiv:2206.00364, Algorithm 2: S_churn, S_tmin, S_tmax, S_noise. A level is not raised above
    sigmas[0], as a network need not know what lies there; Algorithm 2 leaves that to S_tmax. The State's x0 is the
    later estimate of the two.
    """
    check("heun", churn=churn, tmin=tmin, tmax=tmax, noise=noise)
    walk = Walk(denoise, x, sigmas, draws=f"heun with churn = {churn}" if churn > 0 else "", seeds=seeds)
    x = walk.x
    gamma = min(churn / walk.steps, math.sqrt(2) - 1)
    for sigma, below in walk:
        raised = min(sigma * (1 + gamma), walk.levels[0]) if tmin <= sigma <= tmax else sigma
        if raised > sigma:
            x = x + noise * math.sqrt(raised**2 - sigma**2) * walk.noise()
        x0 = walk.estimate(x, raised)
        slope = (x - x0) / raised
        if below == 0:
            x = x0  # Euler's step to 0, without its rounding
        else:
            ahead = x + (below - raised) * slope
            x0 = walk.estimate(ahead, below)
            x = x + (below - raised) * (slope + (ahead - x0) / below) / 2
        yield walk.state(x, x0)


# Dormand and Prince 1980: row k gives the point where slope k + 2 is taken; the last row is the fifth-order step.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# the fifth-order step less the embedded fourth-order one
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_LEAST = 1e-4  # a step in log sigma that only a denoiser without a derivative asks for


def rk45(denoise: Denoise, x: Tensor, sigmas: Tensor, *, tol: float = 1e-3) -> Iterator[State]:
    """Dormand-Prince 5(4) on the probability-flow ODE with its own steps; six evaluations for each, one at the start.

    tol  the local error allowed, absolute and relative alike: root mean square over each image, the worst of the batch

    sigmas tell where to start, where to end and at which levels to yield; the steps between are the solver's own, and
    States are read off the cubic through their ends. State.nfe counts what was asked, refused steps included. As a
    batch shares its steps, image k depends on the others, by about tol: sample one at a time where that matters.

    Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3, in log sigma, where dx / d(-log sigma) = x0 - x; used for
    diffusion by Song et al. 2021, arXiv:2011.13456, section 4.3. Raises FloatingPointError where tol cannot be held.
    """
    check("rk45", tol=tol)
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    start, end = -math.log(walk.levels[0]), -math.log(walk.levels[-2])
    here, x0, h = start, walk.estimate(x, walk.levels[0]), 0.5
    behind, slope = (here, x, x0 - x), x0 - x
    for _, below in walk:
        if below == 0:
            yield walk.state(x0, x0)
            return
        wanted = -math.log(below)
        while here < wanted:
            ends = h >= end - here
            h = end - here if ends else h
            slopes, estimate, ahead = [slope], x0, x
            for node, row in zip(_NODES, _ROWS, strict=True):
                ahead = x + h * _mix(row, slopes)
                sigma = walk.levels[-2] if ends and node == 1 else math.exp(-here - node * h)
                estimate = walk.estimate(ahead, sigma)
                slopes.append(estimate - ahead)
            walk.check(ahead + slopes[-1])
            allowed = tol * (1 + torch.maximum(x.abs(), ahead.abs()))
            ratio = float((h * _mix(_ERROR, slopes) / allowed).flatten(1).square().mean(1).sqrt().max())
            if ratio <= 1:
                behind, here = (here, x, slope), end if ends else here + h
                x, x0, slope = ahead, estimate, slopes[-1]
            h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
            if h < _LEAST and here < end:
                raise FloatingPointError(
                    f"step {walk.i} of {walk.steps}, at sigma {math.exp(-here):g}: rk45 cannot hold tol = {tol:g} in "
                    f"{x.dtype}: use a larger tol."
                )
        yield walk.state(_cubic(behind, (here, x, slope), wanted), x0)


def _mix(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The weighted sum of slopes."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total


def _cubic(left: tuple[float, Tensor, Tensor], right: tuple[float, Tensor, Tensor], at: float) -> Tensor:
    """Hermite's cubic through two points (place, x, slope), read off between them."""
    if at == right[0]:
        return right[1]
    width = right[0] - left[0]
    t = (at - left[0]) / width
    bend = (2 * t + 1) * (1 - t) ** 2
    slopes = t * (1 - t) ** 2 * left[2] - t**2 * (1 - t) * right[2]
    return bend * left[1] + (1 - bend) * right[1] + width * slopes
