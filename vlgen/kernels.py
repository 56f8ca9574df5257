"""Perturbation kernels: which noise was added to a clean image.

    Gaussian     x = y + sigma * z          z ~ N(0, I)
    PFGMpp(D)    x = y + sigma * s * z      s = sqrt(D / chi2_D), one scalar per image

The kernel of PFGM++ (Xu et al. 2023, arXiv:2302.04265) is p_r(x | y) ~ (|x - y|^2 + r^2)^(-(N + D) / 2). With the
paper's own alignment r = sigma * sqrt(D) that is the multivariate Student-t law with D degrees of freedom and scale
sigma, and a Student-t vector is a normal vector times one random scalar, which is the form used here. So r and N never
appear, no D is too large, and D = inf is the Gaussian kernel exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.tensors import expand, generator, normal


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian kernel N(0, sigma^2 I) of diffusion models."""

    @property
    def name(self) -> str:
        return "gaussian"

    @property
    def D(self) -> float:
        return math.inf

    def scales(self, seeds: Iterable[int]) -> Tensor:
        """The scalar s that multiplies each image's noise: 1 for this kernel. (B,) float32."""
        return torch.ones(len(list(seeds)))

    def noise(self, shape: Sequence[int], sigma: float, seeds: Iterable[int]) -> Tensor:
        """Noise at level sigma, one integer seed per image; at sigma_max, the prior that sampling starts from.

        shape   (C, H, W) of one image
        result  (B, C, H, W) float32, B = len(seeds)
        """
        return sigma * normal(shape, seeds)


@dataclass(frozen=True)
class PFGMpp:
    """The PFGM++ kernel of Xu et al. 2023, arXiv:2302.04265: a multivariate Student-t with D degrees of freedom.

    Its noise has heavier tails than Gaussian noise: E[s^2] = D / (D - 2). A network trained on another kernel takes s
    for contrast and passes it on to the image, so a finite D wants weights that were trained under that D.
    """

    D: float

    def __post_init__(self) -> None:
        if not self.D >= 8:  # written so that NaN is refused too
            raise ValueError(
                f"D = {self.D} was given for the PFGM++ kernel, but D must be at least 8 (below that the "
                "noise scale is too heavy-tailed to train or sample with): use 128, 2048 or inf."
            )

    @property
    def name(self) -> str:
        return "pfgmpp:" + repr(float(self.D)).removesuffix(".0")

    def scales(self, seeds: Iterable[int]) -> Tensor:
        """The scalar s = sqrt(D / chi2_D) that multiplies each image's noise. (B,) float32.

        chi2 has its own random stream, so that s never moves z.
        """
        if math.isinf(self.D):
            return torch.ones(len(list(seeds)))
        half = torch.tensor(self.D / 2, dtype=torch.float64)
        chi2 = torch.stack([2 * torch._standard_gamma(half, generator=generator("chi2", seed)) for seed in seeds])
        return (self.D / chi2).sqrt().float()

    def noise(self, shape: Sequence[int], sigma: float, seeds: Iterable[int]) -> Tensor:
        """Noise at level sigma: the Gaussian noise of the same seeds, each image times its own s.

        shape   (C, H, W) of one image
        result  (B, C, H, W) float32, B = len(seeds)
        """
        seeds = list(seeds)
        z = normal(shape, seeds)
        return sigma * (expand(self.scales(seeds), z) * z)


Kernel = Gaussian | PFGMpp


def kernel(text: str) -> Kernel:
    """The kernel by its name: "gaussian", "pfgmpp:128", "pfgmpp:inf"."""
    family, _, degrees = text.partition(":")
    if text == "gaussian":
        return Gaussian()
    if family == "pfgmpp":
        try:
            D = float(degrees)
        except ValueError:
            pass  # answered below, with everything that is allowed
        else:
            return PFGMpp(D)
    raise ValueError(
        f'kernel {text!r} is unknown: use "gaussian", or "pfgmpp:D" with a number D >= 8 such as "pfgmpp:128" or '
        '"pfgmpp:inf".'
    )
