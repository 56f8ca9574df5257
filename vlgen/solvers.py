"""Solvers: how to walk from noise down to an image, every one in sigma units.

With x the noisy image and x0 = denoise(x, sigma), the probability-flow ODE is dx/dsigma = (x - x0) / sigma (Karras et
al. 2022, arXiv:2206.00364, eqs. 1 and 3). It is the same ODE for the Gaussian and the PFGM++ kernel (Xu et al. 2023,
arXiv:2302.04265): only the start and the denoiser differ, so no solver here knows of kernels.

A solver is a generator: every step yields a State, and the last State's x is the sample.

    denoise  (x, sigma) -> x0, sigma a 0-d tensor in the dtype of x
    x        (B, C, H, W)   start: kernel.noise at sigmas[0]; kept in float32, or in float64 if given so
    sigmas   (n + 1,)       decreasing, sigmas[-1] == 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from vlgen.tensors import Denoise, State, counter, normal


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[State]:
    """Euler's method on the probability-flow ODE; one evaluation a step. The same as DDIM with eta = 0."""
    walk = _Walk(denoise, x, sigmas)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        x = x0 + below / sigma * (x - x0)
        yield walk.state(x, x0)


def ddim(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 0.0, seeds: Sequence[int] | None = None
) -> Iterator[State]:
    """DDIM; eta = 0 is deterministic, eta = 1 is ancestral sampling (DDPM). One evaluation a step.

    seeds  (B,)  one integer per image, needed when eta > 0; step i of an image draws from its seed and i alone

    Song et al. 2021, arXiv:2010.02502, eqs. 12 and 16. Divided by alpha, where sigma^2 = (1 - alpha^2) / alpha^2, the
    alphas cancel: the fresh noise is eta * below * sqrt(1 - below^2 / sigma^2), and what remains of the old completes
    the variance below^2.
    """
    walk = _Walk(denoise, x, sigmas)
    x = walk.x
    _check_eta(eta)
    if eta > 0 and (seeds is None or len(seeds) != len(x)):
        given = "none" if seeds is None else f"{len(seeds)}"
        raise ValueError(f"ddim with eta = {eta} draws noise for {len(x)} images but got {given} seeds: pass one each.")
    for sigma, below in walk:
        fresh = eta * below * math.sqrt(1 - (below / sigma) ** 2)
        kept = math.sqrt(below**2 - fresh**2)
        x0 = walk.estimate(x, sigma)
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0 and seeds is not None:
            x = x + fresh * normal(x.shape[1:], [counter(seed, walk.i) for seed in seeds]).to(x)
        yield walk.state(x, x0)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[State]:
    """Heun's method on the probability-flow ODE; two evaluations a step, one at the last.

    Karras et al. 2022, arXiv:2206.00364, Algorithm 2 without churn. The State's x0 is the later estimate of the two.
    """
    walk = _Walk(denoise, x, sigmas)
    x = walk.x
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        slope = (x - x0) / sigma
        if below == 0:
            x = x0  # Euler's step to 0, without its rounding
        else:
            ahead = x + (below - sigma) * slope
            x0 = walk.estimate(ahead, below)
            x = x + (below - sigma) * (slope + (ahead - x0) / below) / 2
        yield walk.state(x, x0)


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[State]:
    """DPM-Solver++(2M): second order from the estimate of the step before; one evaluation a step.

    Lu et al. 2022, arXiv:2211.01095, Algorithm 2, with lambda = -log sigma. The first step has no estimate before it
    and the step to 0 has h = inf: both are first order.
    """
    walk = _Walk(denoise, x, sigmas)
    x = walk.x
    before: tuple[Tensor, float] | None = None  # the last step's estimate and its h
    for sigma, below in walk:
        x0 = walk.estimate(x, sigma)
        h = math.log(sigma / below) if below > 0 else math.inf
        ahead = x0
        if before is not None and below > 0:
            ahead = x0 + h / before[1] * (x0 - before[0]) / 2  # x0 half a step of lambda further on
        x = ahead + below / sigma * (x - ahead)
        before = x0, h
        yield walk.state(x, x0)


class _Walk:
    """What every solver shares: the checked start, the pairs of levels, the counted denoiser, the checked State."""

    def __init__(self, denoise: Denoise, x: Tensor, sigmas: Tensor) -> None:
        self.levels: list[float] = sigmas.flatten().tolist()
        decreasing = all(sigma > below for sigma, below in pairwise(self.levels))  # NaN is not
        if sigmas.ndim != 1 or len(self.levels) < 2 or not decreasing or self.levels[-1] != 0:
            raise ValueError(
                f"sigmas {self.levels} of shape {tuple(sigmas.shape)} were given, but a solver walks down one row of "
                "strictly decreasing values that ends with 0: make it with vlgen.schedules."
            )
        if math.isinf(self.levels[0]) or not bool(x.isfinite().all()):
            raise ValueError("the start of a solver must be finite: make x with kernel.noise at a finite sigmas[0].")
        self.denoise = denoise
        self.x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.i = 0
        self.nfe = 0

    def __iter__(self) -> Iterator[tuple[float, float]]:
        for sigma, below in pairwise(self.levels):
            self.i += 1
            yield sigma, below

    def estimate(self, x: Tensor, sigma: float) -> Tensor:
        self.nfe += 1
        return self.denoise(x, x.new_tensor(sigma)).to(x.dtype)

    def state(self, x: Tensor, x0: Tensor) -> State:
        above, sigma = self.levels[self.i - 1 : self.i + 1]
        if not bool(x.isfinite().all()):
            raise FloatingPointError(
                f"step {self.i} of {len(self.levels) - 1}, from sigma {above:g} to {sigma:g}, gave values that are not "
                "finite: check the denoiser's weights, its precision and the guidance scale."
            )
        return State(self.i, sigma, x, x0, self.nfe)


@dataclass(frozen=True)
class Solver:
    """A solver and what is known of it; call it as solver(denoise, x, sigmas, seeds=seeds).

    order        of the global error in the step size
    evaluations  of the network per step; the last step takes one
    stochastic   draws noise on the way, so needs seeds and a Gaussian kernel
    """

    name: str
    run: Callable[..., Iterator[State]]
    order: int
    evaluations: int
    stochastic: bool
    paper: str

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, *, seeds: Sequence[int] | None = None
    ) -> Iterator[State]:
        """Walk from x down sigmas; seeds are read by stochastic solvers only."""
        return self.run(denoise, x, sigmas, **({"seeds": seeds} if self.stochastic else {}))

    def nfe(self, steps: int) -> int:
        """Network evaluations of a walk of so many steps."""
        return (steps - 1) * self.evaluations + 1


_ALL = (
    Solver("euler", euler, 1, 1, False, "Karras et al. 2022, arXiv:2206.00364"),
    Solver("ddim", ddim, 1, 1, False, "Song et al. 2021, arXiv:2010.02502"),
    Solver("heun", heun, 2, 2, False, "Karras et al. 2022, arXiv:2206.00364"),
    Solver("dpmpp_2m", dpmpp_2m, 2, 1, False, "Lu et al. 2022, arXiv:2211.01095"),
)
SOLVERS: dict[str, Solver] = {each.name: each for each in _ALL}


def solver(name: str) -> Solver:
    """The solver by its name; "ddim:0.5" is DDIM with eta = 0.5, which is stochastic."""
    family, colon, option = name.partition(":")
    if name in SOLVERS:
        return SOLVERS[name]
    if family == "ddim" and colon:
        try:
            eta = float(option)
        except ValueError:
            pass  # answered below, with everything that is allowed
        else:
            _check_eta(eta)
            return Solver(name, partial(ddim, eta=eta), 1, 1, eta > 0, SOLVERS["ddim"].paper)
    raise ValueError(f'solver {name!r} is unknown: use one of {", ".join(SOLVERS)}, or "ddim:ETA" with ETA in [0, 1].')


def nfe(name: str, steps: int) -> int:
    """Network evaluations that the named solver takes for so many steps."""
    return solver(name).nfe(steps)


class HasKernelName(Protocol):
    """What `check_kernel` reads of a kernel."""

    @property
    def name(self) -> str: ...
    @property
    def D(self) -> float: ...


def check_kernel(solver: Solver, kernel: HasKernelName) -> None:
    """Refuse a solver that draws Gaussian noise on the way down from a PFGM++ prior.

    Its fresh noise replaces the start's, so that within some steps the walk is the Gaussian kernel's, in silence.
    """
    if solver.stochastic and math.isfinite(kernel.D):
        raise ValueError(
            f"solver {solver.name!r} adds Gaussian noise at every step, which erases kernel {kernel.name!r}: use a "
            f"deterministic solver ({', '.join(SOLVERS)}) or kernel 'gaussian'."
        )


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:  # NaN fails this too
        raise ValueError(f"eta = {eta} was given to ddim: use 0 (deterministic) to 1 (ancestral).")
