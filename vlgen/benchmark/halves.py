"""Two halves of a folder of real images: what a study compares with, and with what."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vlgen.evaluate.collection import gather
from vlgen.evaluate.fidelity import halved
from vlgen.features import Extractor

LEAST = 10  # images of each half


def halves_of(real: str | Path, count: int, seed: int, eye: Extractor) -> tuple[Tensor, Tensor]:
    """Features (n, d) of at most `count` real images, and of as many others of other patients.

    Raises ValueError where there are fewer than ten of each.
    """
    found = gather(real, [eye])
    first, second = halved(found, seed)
    n = min(count, len(first))
    if n < LEAST:
        raise ValueError(
            f"{real} has {len(found)} images, and {count} of each way were asked for: give at least {2 * LEAST} of at "
            f"least two patients, and {LEAST}"
        )
    x = found.features[eye.name]
    return x[first[:n]], x[second[:n]]
