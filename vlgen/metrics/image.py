"""How close an image is to its reference: PSNR, NRMSE, SSIM and MS-SSIM, one figure per image."""

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


def nrmse(x: Tensor, reference: Tensor) -> Tensor:
    """Normalized root-mean-square error, |x - reference| / |reference| (Euclidean), per image; 0 for equal images.

    It depends on where the unit has its zero: the same error weighs less in HU + 1024 than in HU.

    x, reference  (B, C, H, W) in one unit, no reference all zero
    result        (B,)
    """
    _check(x, reference)
    error = (x.double() - reference.double()).flatten(1).square().sum(1).sqrt()
    norm = reference.double().flatten(1).square().sum(1).sqrt()
    if not bool((norm > 0).all()):
        raise ValueError(f"{int((norm == 0).sum())} of {len(norm)} references are all zero: leave those images out")
    return error / norm


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
    luminance, structure = _similarity(x.double(), reference.double(), peak)
    return (luminance * structure).flatten(1).mean(1)


def ms_ssim(x: Tensor, reference: Tensor, *, peak: float) -> Tensor:
    """Multi-scale structural similarity, per image: 1 for equal images.

    Wang, Simoncelli and Bovik 2003, eq. 7 with the paper's five exponents: contrast times structure at five scales,
    each half the one before by 2 x 2 means, and luminance at the coarsest. A scale at which two images are
    anticorrelated counts 0, since a negative number has no real power. Between the images of one prompt, a low mean is
    variety.

    x, reference  (B, C, H, W) in one unit, at least 176 pixels a side (11 at the coarsest scale)
    result        (B,)
    """
    _check(x, reference, peak)
    if min(x.shape[-2:]) < 176:
        raise ValueError(f"MS-SSIM of {tuple(x.shape[-2:])} pixels: its five scales need at least 176 a side")
    a, b = x.double(), reference.double()
    result = torch.ones(len(x), dtype=torch.float64, device=x.device)
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, exponent in enumerate(exponents, 1):
        luminance, structure = _similarity(a, b, peak)
        index = luminance * structure if scale == len(exponents) else structure
        result = result * index.flatten(1).mean(1).clamp_min(0) ** exponent
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result


def _similarity(a: Tensor, b: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """The maps of luminance, and of contrast times structure; Wang et al. 2004, eq. 6, and eq. 9 times eq. 10."""
    taps = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(taps**2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).to(a.device)

    def blur(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]
        flat = F.conv2d(F.conv2d(flat, weights[None, None, :, None]), weights[None, None, None, :])
        return flat.reshape(*image.shape[:2], *flat.shape[-2:])

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * cov + c2) / (var_a + var_b + c2)


def _check(x: Tensor, reference: Tensor, peak: float = 1.0) -> None:
    if x.shape != reference.shape or x.ndim != 4:
        raise ValueError(f"images of {tuple(x.shape)} and {tuple(reference.shape)}: give two of one shape (B, C, H, W)")
    if not peak > 0:
        raise ValueError(f"peak is {peak}: give the width of the images' range, such as 2 for [-1, 1]")
