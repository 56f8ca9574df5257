"""Frechet: how long the distance takes on this machine, against pytorch-fid's on the same features."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from vlgen.metrics.distribution import frechet
from vlgen.tensors import generator

if TYPE_CHECKING:
    import numpy as np


def frechet_timing(
    n: int = 500,
    d: int = 2048,
    *,
    repeats: int = 3,
    others: Sequence[tuple[int, int]] = ((3000, 2048), (3000, 512)),
) -> dict[str, dict[str, float]]:
    """Frechet distance of two sets of n features of dimension d, against pytorch-fid's on the same float64 features.

    repeats  runs of each at (n, d), in turn, after a warm-up of both; the fastest counts
    others   more (n, d), run once each

    Of pytorch-fid, the means, the covariances and the distance are timed: all that it does once it has the features.
    `ratio` is its time over ours, of wall and of CPU seconds; `relative difference` that of the two figures. Raises
    ValueError where the package pytorch-fid is not installed.
    """
    theirs = _pytorch_fid()
    for work in (frechet, theirs):
        work(*_features(64, 32))
    return {
        f"frechet n={rows} d={columns}": _against(theirs, *_features(rows, columns), times)
        for rows, columns, times in ((n, d, repeats), *((*other, 1) for other in others))
    }


def _pytorch_fid() -> Callable[[torch.Tensor, torch.Tensor], float]:
    import numpy as np

    try:
        from pytorch_fid.fid_score import calculate_frechet_distance  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ValueError("pytorch-fid is not installed: pip install pytorch-fid") from None

    def moments(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return np.mean(x.numpy(), axis=0), np.cov(x.numpy(), rowvar=False)

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, of an argument that the package gives
            return float(calculate_frechet_distance(*moments(a), *moments(b)))

    return distance


def _features(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets with the falling spectrum that features have, the second wider and moved."""
    spread = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    a, b = (torch.randn(n, d, dtype=torch.float64, generator=generator("frechet", k)) * spread for k in range(2))
    return a, 1.2 * b + 0.05


def _against(
    theirs: Callable[[torch.Tensor, torch.Tensor], float], a: torch.Tensor, b: torch.Tensor, repeats: int
) -> dict[str, float]:
    best = {frechet: [float("inf")] * 2, theirs: [float("inf")] * 2}
    values = {}
    for _ in range(repeats):
        for work in best:
            wall, cpu = time.monotonic(), time.process_time()
            values[work] = work(a, b)
            spent = time.monotonic() - wall, time.process_time() - cpu
            best[work] = [min(pair) for pair in zip(best[work], spent, strict=True)]
    (wall, cpu), (their_wall, their_cpu) = best.values()
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "pytorch_fid_wall_s": their_wall,
        "pytorch_fid_cpu_s": their_cpu,
        "ratio": their_wall / wall,
        "cpu_ratio": their_cpu / cpu,
        "relative_difference": abs(values[frechet] - values[theirs]) / values[theirs],
        "n": repeats,
    }
