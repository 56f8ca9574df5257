"""Losses: the error of the denoiser over noise levels, as training weighs it and as held-out images measure it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.kernels import Kernel
from vlgen.tensors import counter, expand, generator
from vlgen.text import Cond
from vlgen.train.latents import Latents

MEAN, STD = 0.2, 1.3  # ln sigma ~ N(MEAN, STD^2)
GAMMA = 5.0
LEVELS = 4  # noise levels of each held-out image
MOST = 128  # images of either side that are measured


def weight(sigma: Tensor, weighting: str) -> Tensor:
    """What the squared error of the clean latent, of unit variance, counts at noise level sigma.

    edm      (1 + sigma^2) / sigma^2: Karras et al. 2022, arXiv:2206.00364, table 1, with sigma_data = 1; for a network
             that predicts v it is the plain error of v
    min-snr  min(1 / sigma^2, 5): Hang et al. 2023, arXiv:2303.09556, eq. 6 and 8, whatever the network predicts
    """
    snr = sigma**-2
    return snr + 1 if weighting == "edm" else snr.clamp(max=GAMMA)


def levels(seeds: Sequence[int], backbone: Backbone) -> Tensor:
    """Noise levels to train at, one per seed, log-normal within the trained range (arXiv:2206.00364, section 5)."""
    normal = torch.stack([torch.randn((), generator=generator("sigma", seed)) for seed in seeds])
    return (MEAN + STD * normal).exp().clamp(float(backbone.sigmas[0]), float(backbone.sigmas[-1]))


def error(
    model: Callable[[Tensor, Tensor, Cond | Sequence[str]], Tensor],
    z: Tensor,
    sigma: Tensor,
    seeds: Sequence[int],
    kernel: Kernel,
    cond: Cond | Sequence[str],
    weighting: str,
) -> Tensor:
    """(B,) weighted mean squared error of the clean latents z (B, C, H, W) that the model sees behind noise.

    sigma  (B,) noise levels; the noise itself is the kernel's, one seed per image: sigma * s * normal, and for PFGM++
           one s per image (Xu et al. 2023, arXiv:2302.04265)
    """
    noise = kernel.noise(z.shape[1:], 1.0, seeds).to(z)
    x0 = model(z + expand(sigma, z) * noise, sigma, cond).float()
    return (x0 - z).square().flatten(1).mean(1) * weight(sigma, weighting)


@torch.no_grad()
def measured(
    backbone: Backbone,
    denoise: Callable[[Tensor, Tensor, Cond | Sequence[str]], Tensor],
    z: Latents,
    rows: Sequence[int],
    kernel: Kernel,
    weighting: str,
    conds: Callable[[Sequence[int]], Cond | Sequence[str]],
    *,
    batch: int = 8,
) -> Tensor:
    """(n,) the loss of some rows, each the mean over the same four noise levels with noise of its own, always the same.

    The levels are the 1/8, 3/8, 5/8 and 7/8 quantiles of those that training draws; the noise is by row and level, so
    that two measurements differ by what the weights have learned and nothing else.
    """
    at = torch.distributions.Normal(MEAN, STD).icdf((torch.arange(LEVELS) + 0.5) / LEVELS).exp()
    at = at.clamp(float(backbone.sigmas[0]), float(backbone.sigmas[-1]))
    training = backbone.unet.training
    backbone.unet.eval()
    found = []
    for start in range(0, len(rows), batch):
        part = list(rows[start : start + batch])
        latent, cond = z[part].to(backbone.device), conds(part)
        total = torch.zeros(len(part), device=backbone.device)
        for level, sigma in enumerate(at):
            seeds = [counter("held out", row, level) for row in part]
            s = sigma.expand(len(part)).to(backbone.device)
            total += error(denoise, latent, s, seeds, kernel, cond, weighting) / LEVELS
        found.append(total.cpu())
    backbone.unet.train(training)
    return torch.cat(found) if found else torch.empty(0)


def some(rows: Sequence[int], seed: int) -> list[int]:
    """At most 128 of the rows, by chance, always the same."""
    return sorted(sorted(rows, key=lambda row: counter("measured", seed, row))[:MOST])


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of some values, and its standard error."""
    n = len(values)
    if n < 2:
        return (float(values.mean()) if n else math.nan), math.nan
    return float(values.double().mean()), float(values.double().std() / math.sqrt(n))
