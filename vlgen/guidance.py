"""Guidance: functions that turn denoisers into a denoiser. They compose, and every norm in them is per image.

denoise = interval(cfg(with_text, without, 7.5, rescale=0.7), with_text, lo=0.3, hi=5.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from vlgen.tensors import Denoise

# (x, sigma) -> (x0 with text, x0 without): both halves of classifier-free guidance from one network call.
DenoisePair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cfg(with_text: Denoise, without: Denoise, scale: float, *, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance, x0 = x0_without + scale * (x0_with - x0_without).

    scale    1 is no guidance: then `without` is never called
    rescale  phi in [0, 1]: the share of the guided contrast that is set back to the text estimate's (`rescaled`)

    Ho and Salimans 2022, arXiv:2207.12598, eq. 6 with scale = 1 + w, in x0 instead of epsilon: x0 is affine in epsilon
    with the same coefficients in both halves, so the two agree.
    """
    _check(scale, rescale)
    if scale == 1:
        return with_text
    return cfg_batched(lambda x, sigma: (with_text(x, sigma), without(x, sigma)), scale, rescale=rescale)


def cfg_batched(pair: DenoisePair, scale: float, *, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance as `cfg`, where pair(x, sigma) -> (x0_with, x0_without) is one network call.

    The call does the work of two: at scale 1, where half of it is thrown away, use the text denoiser itself.
    """
    _check(scale, rescale)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        text, plain = pair(x, sigma)
        return rescaled(plain + scale * (text - plain), text, rescale)

    return denoise


def rescaled(guided: Tensor, text: Tensor, phi: float) -> Tensor:
    """The guided estimate with its standard deviation, image by image, moved to the text estimate's by the share phi.

    Lin et al. 2023, arXiv:2305.08891, section 3.4, in x0. Large scales overshoot the contrast; this
    takes the overshoot back. The mean of the image is scaled along, as in the paper.
    """
    if phi == 0:
        return guided
    std = text.flatten(1).std(1) / guided.flatten(1).std(1)
    return guided * (phi * std + (1 - phi)).reshape(-1, *[1] * (guided.ndim - 1))


def interval(guided: Denoise, plain: Denoise, lo: float, hi: float) -> Denoise:
    """Guidance in a limited interval: guided while lo <= sigma <= hi, plain elsewhere.

    Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """
    if not 0 <= lo <= hi:  # NaN fails this too
        raise ValueError(f"guidance between sigma {lo} and {hi} was asked for: use 0 <= lo <= hi.")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return guided(x, sigma) if lo <= float(sigma) <= hi else plain(x, sigma)

    return denoise


def _check(scale: float, rescale: float) -> None:
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"guidance scale {scale} was given: use a finite value from 0, where 1 is no guidance.")
    if not 0 <= rescale <= 1:  # NaN fails this too
        raise ValueError(f"guidance rescale {rescale} was given: use 0 (none) to 1 (the text estimate's contrast).")
