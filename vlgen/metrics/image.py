"""How close an image is to its reference: PSNR and SSIM, one figure per image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(x: Tensor, reference: Tensor, *, peak: float) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / MSE), per image; infinite for equal images.

    x, reference  (B, C, H, W) in one unit
    peak          the width of that unit's range: 2 for [-1, 1]
    result        (B,)
    """
    _check(x, reference, peak)
    error = (x.double() - reference.double()).flatten(1).square().mean(1)
    return 10 * torch.log10(peak**2 / error)


def ssim(x: Tensor, reference: Tensor, *, peak: float) -> Tensor:
    """Structural similarity, mean over the image, per image: 1 for equal images.

    Wang et al. 2004, eq. 13, with its Gaussian window (11 x 11, standard deviation 1.5), K1 = 0.01 and K2 = 0.03, over
    the pixels whose window lies inside the image.

    x, reference  (B, C, H, W) in one unit, at least 11 pixels a side
    result        (B,)
    """
    _check(x, reference, peak)
    if min(x.shape[-2:]) < 11:
        raise ValueError(f"SSIM of {tuple(x.shape[-2:])} pixels: its window needs at least 11 a side")
    taps = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(taps**2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).to(x.device)

    def blur(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]
        flat = F.conv2d(F.conv2d(flat, weights[None, None, :, None]), weights[None, None, None, :])
        return flat.reshape(*image.shape[:2], *flat.shape[-2:])

    a, b = x.double(), reference.double()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index.flatten(1).mean(1)


def _check(x: Tensor, reference: Tensor, peak: float) -> None:
    if x.shape != reference.shape or x.ndim != 4:
        raise ValueError(f"images of {tuple(x.shape)} and {tuple(reference.shape)}: give two of one shape (B, C, H, W)")
    if not peak > 0:
        raise ValueError(f"peak is {peak}: give the width of the images' range, such as 2 for [-1, 1]")
