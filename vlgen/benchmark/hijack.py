"""Hijack: denoising by the sampler, measured on held-out images with noise added, beside plain denoisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlgen.backbone import Backbone, load
from vlgen.evaluate.collection import Collection, gather
from vlgen.hijack import denoise, noise_of
from vlgen.metrics.distribution import bootstrap
from vlgen.metrics.image import psnr, ssim
from vlgen.modality import MODALITIES, modality
from vlgen.tensors import counter, normal

WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of a Gaussian blur, in pixels
TOTALS = (0.5, 1.0, 1.5, 2.5, 4.0)  # weights of total variation, in standard deviations of the noise
SMALLEST = 11  # images: an interval of fewer says nothing


@dataclass(frozen=True)
class Denoised:
    """One way of denoising at one noise level, over all images.

    noise     standard deviation that was added, as a share of the window's width
    steps     of the sampler, 0 for what has none; weight, of the result against the noisy image
    told      the noise that the sampler is told, over what was added; 0 where it finds it by itself
    psnr      dB over the window, mean and 95 % bootstrap interval over images; ssim likewise
    gain      dB, mean over images of the difference to the first backbone at the same noise, steps and weight
    """

    way: str
    kernel: str
    noise: float
    steps: int
    weight: float
    told: float
    n: int
    psnr: tuple[float, float, float]
    ssim: tuple[float, float, float]
    gain: tuple[float, float, float] | None = None


def denoising(
    folder: str | Path,
    *,
    model: str = "mini",
    adapters: Sequence[str] = ("none",),
    noises: Sequence[float] = (0.05, 0.1),
    steps: Sequence[int] = (1, 2, 4, 8),
    weights: Sequence[float] = (1.0,),
    told: Sequence[float] = (0.0,),
    count: int = 64,
    kind: str = "",
    seed: int = 0,
) -> Iterator[Denoised]:
    """For each noise level: the noisy images, plain denoisers, the codec's round trips, and `vlgen.denoise`.

    folder    held-out images; "FOLDER:column=value" takes a part
    adapters  each on the model by itself, under its own kernel; "none" is the model alone
    noises    standard deviations of white Gaussian noise, as shares of the window's width; not cut off at its ends
    told      what the sampler is told of the noise, as multiples of what was added; 0 lets it find it by itself
    count     images, one of each patient, drawn by seed
    kind      the modality, where the folder's reports do not name one

    The sampler, unless told, and non-local means find the noise by themselves (`vlgen.hijack.noise_of`); the blur's
    width and the weight of total variation are the best of five in hindsight, which no user has. The round trip of the
    clean images is the most that the codec lets through.
    """
    found = gather(folder)
    about = modality(kind or _kind(found))
    rows = _one_each(found, count, seed)
    if len(rows) < SMALLEST:
        raise ValueError(f"{folder} has images of {len(rows)} patients: give at least {SMALLEST}")
    backbones = [load(model, adapter=() if name == "none" else name) for name in adapters]
    if not backbones:
        raise ValueError("no adapter was named: give their folders with commas between, or none for the model alone")
    size = backbones[0].size
    clean = torch.stack([found.picture(row, size) for row in rows])

    def scored(way: str, images: Tensor, noise: float, against: Tensor | None = None, **said: Any) -> Denoised:
        values = psnr(images, clean, peak=1.0)
        gain = None if against is None else _mean(values - psnr(against, clean, peak=1.0), seed)
        row: dict[str, Any] = {"kernel": "", "steps": 0, "weight": 1.0, "told": 0.0} | said
        return Denoised(
            way, noise=noise, n=len(clean), psnr=_mean(values, seed), ssim=_mean(ssim(images, clean, peak=1.0), seed),
            gain=gain, **row,
        )  # fmt: skip

    yield scored("round trip of the clean images", _round_trip(backbones[0], clean), 0.0)
    for noise in noises:
        drawn = normal(clean.shape[1:], [counter("noise", seed, k) for k in range(len(clean))])
        noisy = clean + noise * drawn
        yield scored("the noisy images", noisy, noise)
        for way, images in plain(noisy, clean):
            yield scored(way, images, noise)
        yield scored("round trip of the noisy images", _round_trip(backbones[0], noisy), noise)
        low, high = about.window
        for taken, off in product(steps, told):
            first: Tensor | None = None
            for name, backbone in zip(adapters, backbones, strict=True):
                given = noisy * (high - low) + low
                level = off * noise * (high - low) if off else None
                made = denoise(backbone, given, kind=about.name, noise=level, steps=taken, seed=seed).pixels
                result = (made - low) / (high - low)
                for weight in weights:
                    mixed = torch.lerp(noisy, result, weight)
                    base = None if first is None else torch.lerp(noisy, first, weight)
                    said = {"kernel": backbone.kernel, "steps": taken, "weight": weight, "told": off}
                    yield scored(f"hijack, {_short(name)}", mixed, noise, base, **said)
                first = result if first is None else first


def plain(noisy: Tensor, clean: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Denoisers without a network: blur and, where scikit-image is installed, total variation and non-local means."""
    yield _best("blur", "width", WIDTHS, lambda width: _blur(noisy, width), clean)
    try:
        from skimage import restoration
    except ImportError:
        return
    library: Any = restoration
    spread = [noise_of(x) for x in noisy]

    def total(weight: float) -> Tensor:
        each = [library.denoise_tv_chambolle(x[0].numpy(), weight * s) for x, s in zip(noisy, spread, strict=True)]
        return torch.stack([torch.from_numpy(x)[None] for x in each])

    yield _best("total variation", "weight", TOTALS, total, clean)
    each = [
        library.denoise_nl_means(x[0].numpy(), patch_size=5, patch_distance=6, h=0.8 * s, sigma=s, fast_mode=True)
        for x, s in zip(noisy, spread, strict=True)
    ]
    yield "non-local means", torch.stack([torch.from_numpy(x)[None] for x in each])


def _best(
    way: str, what: str, values: Sequence[float], make: Callable[[float], Tensor], clean: Tensor
) -> tuple[str, Tensor]:
    """The result at the value that is best over all images, which the row's name says."""
    made = {value: make(value) for value in values}
    value = max(made, key=lambda value: float(psnr(made[value], clean, peak=1.0).mean()))
    return f"{way}, best {what} {value:g}", made[value]


def _blur(x: Tensor, width: float) -> Tensor:
    """Gaussian blur, the image mirrored at its edges."""
    reach = math.ceil(3 * width)
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * width**2))
    taps = taps / taps.sum()
    wide = functional.pad(x, (reach,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(wide, taps[None, None, :, None]), taps[None, None, None, :])


@torch.inference_mode()
def _round_trip(backbone: Backbone, x: Tensor) -> Tensor:
    """What the codec makes of images in [0, 1]."""
    parts = [backbone.decode(backbone.encode((part * 2 - 1).clamp(-1, 1))).cpu() for part in torch.split(x, 8)]
    return (torch.cat(parts).clamp(-1, 1) + 1) / 2


def _mean(values: Tensor, seed: int) -> tuple[float, float, float]:
    """The mean over images and its 95 % bootstrap interval."""
    return float(values.mean()), *bootstrap(lambda x: float(x.mean()), values, draws=1000, seed=seed)


def _kind(found: Collection) -> str:
    """The one modality of a collection."""
    kinds = sorted(set(found.modalities))
    if len(kinds) != 1 or not kinds[0]:
        raise ValueError(
            f"the folder does not say of one modality that all images are of it: give one of {', '.join(MODALITIES)}"
        )
    return kinds[0]


def _one_each(found: Collection, count: int, seed: int) -> list[int]:
    """Rows of so many images by chance, no two of one patient."""
    chosen: dict[str, int] = {}
    for row in sorted(range(len(found)), key=lambda row: counter("denoising", seed, found.digests[row])):
        chosen.setdefault(found.groups[row], row)
    return list(chosen.values())[:count]


def _short(name: str) -> str:
    """The last part of an adapter's folder, with its scale."""
    return "no adapter" if name == "none" else name.rstrip("/").rpartition("/")[2]
