"""How close an image is to its reference: PSNR, RMSE, MAE, NRMSE, SSIM and MS-SSIM, one figure per image.

Every figure takes an optional mask, (B, 1, H, W) or (B, C, H, W) of bool or 0 and 1, and is then of the pixels where it
is 1: PSNR, RMSE, MAE and NRMSE do not see the others at all, SSIM and MS-SSIM only through windows that reach over the
mask's edge. A ValueError says how many masks of a batch leave nothing to measure.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(x: Tensor, reference: Tensor, *, peak: float, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / MSE), per image; infinite for equal images.

    x, reference  (B, C, H, W) in one unit
    peak          the width of that unit's range: 2 for [-1, 1]
    mask          (B, 1 or C, H, W), 1 for the pixels that count
    result        (B,)
    """
    _check(x, reference, peak)
    error = (x.double() - reference.double()).square()
    return 10 * torch.log10(peak**2 / _mean(error, _inside(mask, x)))


def rmse(x: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Root-mean-square error in the unit of the images, per image.

    x, reference  (B, C, H, W) in one unit
    mask          (B, 1 or C, H, W), 1 for the pixels that count
    result        (B,)
    """
    _check(x, reference)
    return _mean((x.double() - reference.double()).square(), _inside(mask, x)).sqrt()


def mae(x: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error in the unit of the images, per image.

    x, reference  (B, C, H, W) in one unit
    mask          (B, 1 or C, H, W), 1 for the pixels that count
    result        (B,)
    """
    _check(x, reference)
    return _mean((x.double() - reference.double()).abs(), _inside(mask, x))


def nrmse(x: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Normalized root-mean-square error, |x - reference| / |reference| (Euclidean), per image; 0 for equal images.

    It depends on where the unit has its zero: the same error weighs less in HU + 1024 than in HU.

    x, reference  (B, C, H, W) in one unit, no reference all zero (where the mask is 1)
    mask          (B, 1 or C, H, W), 1 for the pixels that count
    result        (B,)
    """
    _check(x, reference)
    inside = _inside(mask, x)
    error = _mean((x.double() - reference.double()).square(), inside).sqrt()
    norm = _mean(reference.double().square(), inside).sqrt()
    if bool((norm == 0).any()):
        raise ValueError(f"{int((norm == 0).sum())} of {len(norm)} references are all zero: leave those images out")
    return error / norm


def ssim(x: Tensor, reference: Tensor, *, peak: float, mask: Tensor | None = None) -> Tensor:
    """Structural similarity, mean over the image, per image: 1 for equal images.

    Wang et al. 2004, eq. 13, with its Gaussian window (11 x 11, standard deviation 1.5), K1 = 0.01 and K2 = 0.03, over
    the pixels whose window lies inside the image.

    x, reference  (B, C, H, W) in one unit, at least 11 pixels a side
    mask          (B, 1 or C, H, W): a window counts where its center is 1, so that a small structure can be measured;
                  it sees up to 5 pixels beyond the mask
    result        (B,)
    """
    _check(x, reference, peak)
    if min(x.shape[-2:]) < 11:
        raise ValueError(f"SSIM of {tuple(x.shape[-2:])} pixels: its window needs at least 11 a side")
    inside = _inside(mask, x)
    luminance, structure = _similarity(x.double(), reference.double(), peak)
    return _mean(luminance * structure, _centers(inside))


def ms_ssim(x: Tensor, reference: Tensor, *, peak: float, mask: Tensor | None = None) -> Tensor:
    """Multi-scale structural similarity, per image: 1 for equal images.

    Wang, Simoncelli and Bovik 2003, eq. 7 with the paper's five exponents: contrast times structure at five scales,
    each half the one before by 2 x 2 means, and luminance at the coarsest. A scale at which two images are
    anticorrelated counts 0, since a negative number has no real power. Between the images of one prompt, a low mean is
    variety.

    x, reference  (B, C, H, W) in one unit, at least 176 pixels a side (11 at the coarsest scale)
    mask          (B, 1 or C, H, W): at each scale a window counts where its center is 1, and a pixel of a coarser scale
                  is 1 where all the pixels that it is the mean of are: 16 x 16 of them at the coarsest
    result        (B,)
    """
    _check(x, reference, peak)
    if min(x.shape[-2:]) < 176:
        raise ValueError(f"MS-SSIM of {tuple(x.shape[-2:])} pixels: its five scales need at least 176 a side")
    a, b, inside = x.double(), reference.double(), _inside(mask, x)
    result = torch.ones(len(x), dtype=torch.float64, device=x.device)
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, exponent in enumerate(exponents, 1):
        luminance, structure = _similarity(a, b, peak)
        index = luminance * structure if scale == len(exponents) else structure
        result = result * _mean(index, _centers(inside)).clamp_min(0) ** exponent
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        inside = None if inside is None else F.avg_pool2d(inside.double(), 2) == 1
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


def _inside(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask as bool in the shape of x."""
    if mask is None:
        return None
    channels = mask.shape[1] if mask.ndim == 4 else 0
    if channels not in (1, x.shape[1]) or mask.shape != (len(x), channels, *x.shape[2:]):
        raise ValueError(f"mask of {tuple(mask.shape)} for images of {tuple(x.shape)}: give (B, 1 or C, H, W)")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask holds values besides 0 and 1: give mask > 0, or another threshold")
    return mask.to(x.device).bool().expand_as(x)


def _centers(inside: Tensor | None) -> Tensor | None:
    """The mask at the pixels that are the center of an 11 x 11 window inside the image."""
    return None if inside is None else inside[..., 5:-5, 5:-5]


def _mean(values: Tensor, inside: Tensor | None) -> Tensor:
    """Mean of each image, over the masked pixels only: what lies outside may be anything, even NaN."""
    if inside is None:
        return values.flatten(1).mean(1)
    count = inside.flatten(1).sum(1)
    if bool((count == 0).any()):
        raise ValueError(
            f"{int((count == 0).sum())} of {len(count)} masks leave no pixel (of SSIM, no window at some scale) to "
            "measure: leave those images out, or give larger masks"
        )
    return torch.where(inside, values, 0.0).flatten(1).sum(1) / count


def _check(x: Tensor, reference: Tensor, peak: float = 1.0) -> None:
    if x.shape != reference.shape or x.ndim != 4:
        raise ValueError(f"images of {tuple(x.shape)} and {tuple(reference.shape)}: give two of one shape (B, C, H, W)")
    if not peak > 0:
        raise ValueError(f"peak is {peak}: give the width of the images' range, such as 2 for [-1, 1]")
