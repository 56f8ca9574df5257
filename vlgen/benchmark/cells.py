"""Cells: what a study of kernels samples, and how one of them is disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.generate import denoiser
from vlgen.plan import Plan
from vlgen.tensors import Denoise


@dataclass(frozen=True)
class Cell:
    """What is sampled: one adapter at one number of evaluations, undisturbed or disturbed in one way.

    error  the network is told sigma * (1 + error)
    bits   of the UNet's weights, rounded for each output channel; 0 for the weights as they are
    """

    adapter: str
    nfe: int
    error: float = 0.0
    bits: int = 0

    @property
    def disturbed(self) -> bool:
        return bool(self.error or self.bits)


def begin(backbone: Backbone, plans: Sequence[Plan], error: float) -> tuple[Tensor, Denoise]:
    """The noise of a batch, and its denoiser, which is told another sigma than there is."""
    first = plans[0]
    with torch.inference_mode():
        cond = backbone.embed([one.prompt for one in plans])
        seeds = [one.seeds[0] for one in plans]
        z = first.kernel.noise(backbone.shape, float(first.sigmas[0]), seeds).to(backbone.device)
        without = backbone.embed([""]).repeat(len(plans)) if first.guidance_scale != 1 else None
    inner = denoiser(backbone, first, cond, without)
    return z, (lambda x, sigma: inner(x, sigma * (1 + error))) if error else inner


def seen(backbone: Backbone, z: Tensor) -> Tensor:
    """Latents as images (B, 1, H, W) in [0, 1]."""
    return (backbone.decode(z).clamp(-1, 1).cpu() + 1) / 2
