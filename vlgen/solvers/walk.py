"""Walk: the checked start, the pairs of levels, the counted denoiser, the seeded noise and the checked State."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vlgen.tensors import Denoise, State, counter, normal


class Walk:
    """What every solver shares; iterating gives (sigma, below) for each step.

    draws  what draws noise, in words, or "" for a deterministic walk; then one seed per image is needed
    """

    def __init__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, *, draws: str = "", seeds: Sequence[int] | None = None
    ) -> None:
        self.levels: list[float] = sigmas.flatten().tolist()
        decreasing = all(sigma > below for sigma, below in pairwise(self.levels))  # NaN is not
        if sigmas.ndim != 1 or len(self.levels) < 2 or not decreasing or self.levels[-1] != 0:
            raise ValueError(
                f"sigmas {self.levels} of shape {tuple(sigmas.shape)} were given, but a solver walks down one row of "
                "strictly decreasing values that ends with 0: make it with vlgen.schedules."
            )
        if math.isinf(self.levels[0]) or not bool(x.isfinite().all()):
            raise ValueError("the start of a solver must be finite: make x with kernel.noise at a finite sigmas[0].")
        if draws and (seeds is None or len(seeds) != len(x)):
            given = "none" if seeds is None else f"{len(seeds)}"
            raise ValueError(f"{draws} draws noise for {len(x)} images but got {given} seeds: pass one each.")
        self.denoise = denoise
        self.x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.seeds = list(seeds or ())
        self.steps = len(self.levels) - 1
        self.i = 0
        self.nfe = 0

    def __iter__(self) -> Iterator[tuple[float, float]]:
        for sigma, below in pairwise(self.levels):
            self.i += 1
            yield sigma, below

    def estimate(self, x: Tensor, sigma: float) -> Tensor:
        """The denoiser's x0, counted."""
        self.nfe += 1
        return self.denoise(x, x.new_tensor(sigma)).to(x.dtype)

    def noise(self, *words: object) -> Tensor:
        """Standard normal noise of this step, each image's from its own seed; words tell draws of one step apart."""
        return normal(self.x.shape[1:], [counter(seed, self.i, *words) for seed in self.seeds]).to(self.x)

    def check(self, x: Tensor) -> None:
        """Stop a step that gave values which are not finite, and say where."""
        above, sigma = self.levels[self.i - 1 : self.i + 1]
        if not bool(x.isfinite().all()):
            raise FloatingPointError(
                f"step {self.i} of {self.steps}, from sigma {above:g} to {sigma:g}, gave values that are not "
                "finite: check the denoiser's weights, its precision and the guidance scale."
            )

    def state(self, x: Tensor, x0: Tensor) -> State:
        """The State at the end of this step."""
        self.check(x)
        return State(self.i, self.levels[self.i], x, x0, self.nfe)
