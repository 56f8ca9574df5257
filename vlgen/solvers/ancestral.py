"""Ancestral solvers: those that go to the clean estimate and put fresh noise back on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from vlgen.solvers.options import check
from vlgen.solvers.walk import Walk
from vlgen.tensors import Denoise, State


def ddim(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 0.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """DDIM; eta = 0 is deterministic, eta = 1 is ancestral sampling (DDPM). One evaluation a step.

    seeds  (B,)  one integer per image, needed when eta > 0; step i of an image draws from its seed and i alone

    Song et al. 2021, arXiv:2010.02502, eqs. 12 and 16. Divided by alpha, where sigma^2 = (1 - alpha^2) / alpha^2, the
    alphas cancel: the fresh noise is eta * below * sqrt(1 - below^2 / sigma^2), and what remains of the old completes
    the variance below^2.
    """
    check("ddim", eta=eta)
    return _ancestral(denoise, x, sigmas, eta, seeds, f"ddim with eta = {eta}")


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 1.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """Euler's method to a level below the next, and noise back up to it. One evaluation a step.

    seeds  (B,)  one integer per image, needed when eta > 0

    Ho et al. 2020, arXiv:2006.11239, eqs. 6 and 7, in sigma: the noise that goes up is
    eta * below * sqrt(1 - below^2 / sigma^2). Written so it is `ddim` with another default, bit for bit.
    """
    check("euler_ancestral", eta=eta)
    return _ancestral(denoise, x, sigmas, eta, seeds, f"euler_ancestral with eta = {eta}")


def ddpm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, v: float = 0.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """DDPM's ancestral sampling over any levels; one evaluation a step.

    v      which variance: 0 the posterior's given x0 ("fixed small"), 1 the forward step's ("fixed large"), between
           them by their logarithms
    seeds  (B,)  one integer per image

    Ho et al. 2020, arXiv:2006.11239, eq. 7 and section 3.2; Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15. With
    1 / alpha^2 = 1 + sigma^2 and divided by the lower alpha, the mean is x0 + below^2 / sigma^2 (x - x0), the small
    variance below^2 (1 - below^2 / sigma^2), the large one (1 + below^2) (1 - (1 + below^2) / (1 + sigma^2)).
    """
    check("ddpm", v=v)
    walk = Walk(denoise, x, sigmas, draws="ddpm", seeds=seeds)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        x = x0 + (below / sigma) ** 2 * (x - x0)
        if below > 0:
            small = below**2 * (1 - (below / sigma) ** 2)
            large = (1 + below**2) * (1 - (1 + below**2) / (1 + sigma**2))
            x = x + math.sqrt(small ** (1 - v) * large**v) * walk.noise()
        yield walk.state(x, x0)


def consistency(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, lo: float = 0.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """Multi-step sampling of a consistency model: to the clean image in one evaluation, noise on it, and again.

    denoise  a consistency function: where the ODE's path through (x, sigma) ends. With a plain denoiser the first step
             gives the mean of all images that x may come from, and the result is smooth
    lo       the level at which the function's paths end: what the image keeps, and is not drawn again
    seeds    (B,)  one integer per image

    Song et al. 2023, arXiv:2303.01469, Algorithm 1: x = x0 + sqrt(below^2 - lo^2) z. With lo = 0 it is the sampling of
    latent consistency models (Luo et al. 2023, arXiv:2310.04378, Algorithm 3).
    """
    check("consistency", lo=lo)
    walk = Walk(denoise, x, sigmas, draws="consistency", seeds=seeds)
    if len(walk.levels) > 2 and lo >= walk.levels[-2]:
        raise ValueError(
            f"lo = {lo} was given to consistency with levels down to {walk.levels[-2]:g}: use levels above lo, or less."
        )
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        x = x0 + math.sqrt(below**2 - lo**2) * walk.noise() if below > 0 else x0
        yield walk.state(x, x0)


def _ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, eta: float, seeds: Sequence[int] | None, named: str
) -> Iterator[State]:
    walk = Walk(denoise, x, sigmas, draws=named if eta > 0 else "", seeds=seeds)
    x = walk.x
    for sigma, below in walk:
        fresh = eta * below * math.sqrt(1 - (below / sigma) ** 2)
        kept = math.sqrt(below**2 - fresh**2)
        x0 = walk.estimate(x, sigma)
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0:
            x = x + fresh * walk.noise()
        yield walk.state(x, x0)
