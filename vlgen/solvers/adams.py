"""Adams-Bashforth solvers: multistep solvers that extrapolate the predicted noise eps = (x - x0) / sigma."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def deis(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 3) -> Iterator[State]:
    """DEIS (log-rho): eps is a polynomial in log sigma through the last estimates; one evaluation a step.

    order  1 to 4: how many estimates, as far as there are so many

    Zhang and Chen 2023, arXiv:2204.13902, eq. 15 with rho = sigma: dx / d sigma = eps, so that
    x(below) = x + sum_j eps_j (integral of the j-th Lagrange polynomial in log sigma from sigma to below).
    """
    check("deis", order=order)
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    past: list[tuple[float, Tensor]] = []  # (log sigma, eps), the latest first
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        past = [(math.log(sigma), (x - x0) / sigma), *past[: order - 1]]
        if below == 0:
            x = x0
        else:
            weights = exponential_weights([place for place, _ in past], math.log(sigma), math.log(below))
            for weight, (_, eps) in zip(weights, past, strict=True):
                x = x + below * weight * eps
        yield walk.state(x, x0)


# Adams-Bashforth on even steps, the latest first.
_EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 4, last: int = 1) -> Iterator[State]:
    """iPNDM: Adams-Bashforth in sigma with the weights of even steps; one evaluation a step.

    order  1 to 4: how many estimates, as far as there are so many. On uneven levels 3 and 4 are second order, with a
           small constant
    last   1 to 4: how many the step to 0 takes. In sigma that step has an order, unlike in log sigma: more than 1 lets
           the levels end further from 0, which few steps gain by. Then the result is not the last State's x0

    Zhang and Chen 2023, arXiv:2204.13902, section 3.4 and table 2, after Liu et al. 2022, arXiv:2202.09778, eqs. 9 and
    12; without Runge-Kutta steps at the start.
    """
    check("ipndm", order=order, last=last)
    walk = Walk(denoise, x, sigmas)
    x = walk.x
    past: list[Tensor] = []  # eps, the latest first
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        past = [(x - x0) / sigma, *past[: max(order, last) - 1]]
        kept = min(len(past), order if below > 0 else last)
        if below == 0 and kept == 1:
            x = x0  # Euler's step to 0, without its rounding
        else:
            for weight, eps in zip(_EVEN[kept - 1], past[:kept], strict=True):
                x = x + (below - sigma) * weight * eps
        yield walk.state(x, x0)


_GAUSS = np.polynomial.legendre.leggauss(32)  # exact to rounding for steps of up to e^20 in sigma


def exponential_weights(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of e^(u - end) times each Lagrange polynomial on the nodes.

    They are the weights of any exponential integrator whose nonlinear part is interpolated at the nodes. By Gauss's
    quadrature, as the closed forms lose all digits on short steps.
    """
    places, shares = _GAUSS
    u = (start + end) / 2 + (end - start) / 2 * places
    weighted = (end - start) / 2 * shares * np.exp(u - end)
    found = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        polynomial = np.prod([(u - other) / (node - other) for other in others], axis=0) if others else 1.0
        found.append(float((weighted * polynomial).sum()))
    return found
