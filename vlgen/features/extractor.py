"""Extractor: a network that turns images into features, and the preprocessing that it was trained with, asserted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vlgen.checkpoint import sha256
from vlgen.files import compact
from vlgen.images import fit

FILTERS = ("area", "bilinear", "bicubic")
TOLERANCE = 1e-3  # of the range: what a filter in float32 may leave
_TOGETHER = 16  # images in one forward: larger ones are slower on a CPU, and take memory


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that images are compared by.

    name         "imagenet"
    dimension    d
    size         pixels a side that the network sees
    fingerprint  sha256 of the weights and the preprocessing: what a cached feature matrix belongs to
    see          (B, 1, H, W) float in [0, 1], square, of any size -> (B, d) float32; ValueError for anything else
    read         texts -> (N, d) float32 in the same space; None where the network has no text tower
    """

    name: str
    dimension: int
    size: int
    fingerprint: str
    see: Callable[[Tensor], Tensor]
    read: Callable[[Sequence[str]], Tensor] | None = None


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants to see: square images of `size` pixels a side, with one pair of numbers per channel.

    black   the values, channel by channel, that 0 becomes
    white   the values that 1 becomes
    filter  for resizing: "bicubic" and "bilinear" (both antialiased), or "area"
    """

    size: int
    black: tuple[float, ...]
    white: tuple[float, ...]
    filter: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size < 1 or len(self.black) != len(self.white) or not self.black or self.filter not in FILTERS:
            raise ValueError(
                f"preprocessing to {self.size} pixels, {len(self.black)} values for black and {len(self.white)} for "
                f"white, by {self.filter!r}: give a size above 0, one pair per channel, and one of {', '.join(FILTERS)}"
            )

    @classmethod
    def normalized(
        cls, size: int, mean: Sequence[float], std: Sequence[float], *, filter: str = "bicubic"
    ) -> Preprocessing:
        """The preprocessing (x - mean) / std of values in [0, 1]; refused where the numbers belong to other values."""
        if len(mean) != len(std) or not all(0 <= m <= 1 for m in mean) or not all(0.05 <= s <= 1 for s in std):
            raise ValueError(f"mean {list(mean)} and std {list(std)}: give those of values in [0, 1], one per channel")
        pairs = list(zip(mean, std, strict=True))
        return cls(size, tuple(-m / s for m, s in pairs), tuple((1 - m) / s for m, s in pairs), filter)

    def __call__(self, x: Tensor) -> Tensor:
        """Images (B, 1, H, W) in [0, 1] as (B, channels, size, size) float32 in the network's own values.

        Raises ValueError for images that are not float, square, finite and in [0, 1]; AssertionError where the result
        is not what the network was trained with.
        """
        x = self._resized(checked(x))
        black = torch.tensor(self.black).reshape(1, -1, 1, 1)
        white = torch.tensor(self.white).reshape(1, -1, 1, 1)
        ready = (black + (white - black) * x).contiguous(memory_format=torch.channels_last)
        self._hold(ready, x)
        return ready

    def _resized(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        if side == self.size:
            return x
        to = (self.size, self.size)
        if self.filter == "area" and side > self.size:  # enlarging by area repeats pixels, which no training showed
            return functional.interpolate(x, size=to, mode="area")
        if self.filter == "bilinear":
            return functional.interpolate(x, size=to, mode="bilinear", antialias=True, align_corners=False)
        return torch.stack([fit(image, self.size) for image in x])

    def _hold(self, ready: Tensor, x: Tensor) -> None:
        """The last look before the network: channels, size and range, and black and white where they belong."""
        wanted = (len(x), len(self.black), self.size, self.size)
        if tuple(ready.shape) != wanted or ready.dtype != torch.float32:
            raise AssertionError(f"the network wants float32 {wanted}, and would get {ready.dtype} {ready.shape}")
        low, high = torch.tensor(self.black), torch.tensor(self.white)
        span = high - low
        darkest, lightest = ready.amin((2, 3)), ready.amax((2, 3))
        if not ((darkest >= low - TOLERANCE * span) & (lightest <= high + TOLERANCE * span)).all():
            raise AssertionError(f"the network wants values from {self.black} to {self.white}, and would get others")
        # A range can also be missed from inside: values that were divided by 255 twice span next to nothing.
        spread = (lightest - darkest) - span * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None]
        if not (spread.abs() <= TOLERANCE * span).all():
            raise AssertionError("the network would get images of another contrast than they have")


def checked(x: Tensor) -> Tensor:
    """Images (B, 1, H, W) in [0, 1] on the CPU as float32; a ValueError says what else they are."""
    shape = tuple(x.shape)
    if x.ndim != 4 or shape[1] != 1 or shape[2] != shape[3] or 0 in shape or not x.is_floating_point():
        raise ValueError(f"images of shape {shape} and {x.dtype}: give at least one, (B, 1, H, H) of float")
    x = x.detach().to("cpu", torch.float32)
    low, high = float(x.amin()), float(x.amax())
    if not bool(torch.isfinite(x).all()) or low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"image values from {low:.4g} to {high:.4g}: give finite values in [0, 1]")
    return x.clamp(0, 1)


def build(
    name: str,
    network: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    dimension: int,
    files: Iterable[Path],
    *,
    read: Callable[[Sequence[str]], Tensor] | None = None,
) -> Extractor:
    """An extractor of a network (B, channels, size, size) -> (B, d), identified by the files that it was made from."""

    def see(x: Tensor) -> Tensor:
        found, x = [], checked(x)
        for start in range(0, len(x), _TOGETHER):
            ready = preprocessing(x[start : start + _TOGETHER])
            with torch.inference_mode():
                features = network(ready)
            if tuple(features.shape) != (len(ready), dimension) or not bool(torch.isfinite(features).all()):
                raise AssertionError(f"{name} gave {tuple(features.shape)} features, not finite ones of {dimension}")
            found.append(features.float())
        return torch.cat(found)  # outside of inference mode, whose own tensors could train no probe

    marks = sorted(sha256(path) for path in files)
    record = compact({"weights": marks, "preprocessing": asdict(preprocessing)})
    fingerprint = hashlib.sha256(record.encode()).hexdigest()
    return Extractor(name, dimension, preprocessing.size, fingerprint, see, read)
