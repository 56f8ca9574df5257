"""How far one set of images is from another: distances between two matrices of features, one row per image.

Every figure here moves with the number of images, so read it beside the same figure between two halves of the real
images (`halves`) at equal numbers. All arithmetic is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vlgen.tensors import generator

PairKernel = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) -> (n, m)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance (squared 2-Wasserstein) of the Gaussians fitted to two sets of features; FID on Inception's.

    a, b  (n_a, d), (n_b, d)   at least 2 rows each

    Heusel et al. 2017, arXiv:1706.08500, eq. 6: |m_a - m_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b)). With
    S = X^T X / (n - 1), tr sqrt(S_a S_b) is the sum of the singular values of X_a X_b^T over sqrt((n_a - 1) (n_b - 1)).
    X is the centered features while they are fewer than their dimension, and the triangle of their QR decomposition,
    d x d, from there on: neither a matrix square root nor the root of an eigenvalue that is zero up to rounding.
    Rounding below 0 is returned as 0.
    """
    a, b = matrices(2, a=a, b=b)
    means, n, m = (a.mean(0), b.mean(0)), len(a) - 1, len(b) - 1
    x, y = _factor(a, means[0]), _factor(b, means[1])
    spread = _energy(x) / n + _energy(y) / m - 2 * float(torch.linalg.svdvals(x @ y.T).sum()) / math.sqrt(n * m)
    return max(0.0, _energy(means[0] - means[1]) + spread)


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """The polynomial kernel (a . b / d + 1)^3 of the kernel distance; Binkowski et al. 2018, arXiv:1801.01401."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(a: Tensor, b: Tensor, *, sigma: float = 10.0) -> Tensor:
    """The Gaussian kernel exp(-|a - b|^2 / (2 sigma^2)) of CLIP-MMD."""
    return torch.exp(squared(a, b) / (-2 * sigma**2))


def mmd(a: Tensor, b: Tensor, *, kernel: PairKernel = cubic) -> float:
    """Squared maximum mean discrepancy, unbiased: 0 on average for one distribution, so often a little below 0.

    a, b  (n_a, d), (n_b, d)   at least 2 rows each

    Gretton et al. 2012, JMLR 13, eq. 3. With the cubic kernel, the kernel distance KID over all rows.
    """
    a, b = matrices(2, a=a, b=b)
    return _mean(kernel, a, a, same=True) + _mean(kernel, b, b, same=True) - 2 * _mean(kernel, a, b)


def clip_mmd(a: Tensor, b: Tensor) -> float:
    """CLIP-MMD (CMMD): 1000 times the unbiased MMD of unit-norm features under the Gaussian kernel of width 10.

    Jayasumana et al. 2024, arXiv:2401.09603. The rows are normalized here. The authors' code keeps the
    diagonal of the kernel, which adds 1000 * (1 - mean kernel within a set) / n for each set; this figure does not.
    """
    return 1000 * mmd(unit("a", a), unit("b", b), kernel=gaussian)


def kernel_distance(
    a: Tensor, b: Tensor, *, subsets: int = 100, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance KID: mean and standard deviation, over random subsets, of the unbiased MMD with a cubic kernel.

    subsets  number of subsets, at least 2
    size     rows in each, drawn without replacement from each set: smaller than both; None is half of the smaller set
             and at most 1000

    Binkowski et al. 2018, arXiv:1801.01401, section 4. The standard deviation is that of one subset's figure.
    """
    a, b = matrices(4, a=a, b=b)
    fewest = min(len(a), len(b))
    size = min(1000, fewest // 2) if size is None else size
    if not 2 <= size < fewest:
        raise ValueError(
            f"subsets of {size} rows from sets of {len(a)} and {len(b)}: a subset is smaller than its set, so give a "
            f"size from 2 to {fewest - 1}, or more images"
        )
    if subsets < 2:
        raise ValueError(f"{subsets} subsets were asked for, but a standard deviation needs at least 2")
    found = []
    for draw in range(subsets):
        rows, columns = (
            torch.randperm(len(x), generator=generator("kernel distance", seed, draw, name))[:size].to(x.device)
            for name, x in (("a", a), ("b", b))
        )
        found.append(mmd(a[rows], b[columns]))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std())


class Manifold(NamedTuple):
    """How far two sets share one manifold. Density has 1 for its ideal and no upper bound; the others lie in [0, 1]."""

    precision: float  # share of fake images inside the real manifold: realism
    recall: float  # share of real images inside the fake manifold: variety
    density: float  # how many real neighborhoods a fake image lies in, over the k that are expected
    coverage: float  # share of real images with a fake one in their neighborhood


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage of fake images by their k nearest neighbors.

    real, fake  (n, d), (m, d)   more than k rows each

    Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 2; Naeem et al. 2020, arXiv:2002.09797, section 3. A neighborhood
    is the open ball whose radius is the distance to the k-th nearest other image of the same set, as in Naeem's code:
    a set against itself has density 1. An image with k exact duplicates has an empty neighborhood.
    """
    if k < 1:
        raise ValueError(f"k is {k}: give at least one neighbor")
    real, fake = matrices(k + 1, real=real, fake=fake)
    center = real.mean(0)
    real, fake = real - center, fake - center
    around_real, around_fake = _radii(real, k), _radii(fake, k)
    realistic = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled = covered = pairs = 0
    for rows in chunks(len(real), len(fake)):
        distance = squared(real[rows], fake)
        inside = distance < around_real[rows, None]
        realistic |= inside.any(0)
        pairs += int(inside.sum())
        covered += int(inside.any(1).sum())
        recalled += int((distance < around_fake).any(1).sum())
    n, m = len(real), len(fake)
    return Manifold(float(realistic.double().mean()), recalled / n, pairs / (k * m), covered / n)


def bootstrap(
    statistic: Callable[..., float],
    *samples: Tensor,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    center: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a statistic: each sample's rows drawn again with replacement.

    samples  (n, ...) each, drawn independently of one another; what belongs together (scores and labels) is one sample
    level    share of the draws inside the interval
    center   move the interval so that the mean of the draws lies on the statistic itself

    Efron and Tibshirani 1993, chapter 13. A figure that grows as the number of distinct images falls (Frechet
    distance, MMD, nearest neighbors) is too high in every draw, because a draw repeats rows, and its interval may miss
    the figure itself: `center` takes that shift out.
    """
    if not samples or min(map(len, samples)) < 2:
        raise ValueError(f"samples of {[len(x) for x in samples]} rows: a bootstrap needs at least 2 rows in each")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")
    tail = (1 - level) / 2
    if draws < 1 / tail:
        raise ValueError(f"{draws} draws are too few for the level {level}: give at least {math.ceil(1 / tail)}")
    found = []
    for draw in range(draws):
        rows = [
            torch.randint(len(x), (len(x),), generator=generator("bootstrap", seed, draw, i)).to(x.device)
            for i, x in enumerate(samples)
        ]
        found.append(statistic(*(x[chosen] for x, chosen in zip(samples, rows, strict=True))))
    values = torch.tensor(found, dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise ValueError("the statistic is not finite on some draws: no interval can be given")
    if center:
        values = values - values.mean() + statistic(*samples)
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def halves(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two disjoint random halves of n indices, n // 2 each and sorted: the real set against itself, at equal n.

    Where patients have several images, halve the patients: two images of one patient make the halves too alike.
    """
    if n < 2:
        raise ValueError(f"{n} images cannot be halved: give at least 2")
    order = torch.randperm(n, generator=generator("halves", seed))
    return order[: n // 2].sort().values, order[n // 2 : n // 2 * 2].sort().values


def matrices(need: int, **given: Tensor) -> list[Tensor]:
    """The given matrices of features in float64: two-dimensional, finite, of one dimension, `need` rows or more."""
    for name, x in given.items():
        if x.ndim != 2 or not x.is_floating_point() or x.shape[1] < 1:
            raise ValueError(f"{name} is {x.dtype} of {tuple(x.shape)}: give floating-point features (images, d)")
        if len(x) < need:
            raise ValueError(f"{name} has {len(x)} images: at least {need} are needed")
        # The sum needs no copy of x; where it overflows, every number is looked at.
        if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):
            wrong = int((~x.isfinite().all(1)).sum())
            raise ValueError(f"{name} has {wrong} of {len(x)} rows that are not finite: leave those images out")
    if len(dimensions := {x.shape[1] for x in given.values()}) > 1:
        raise ValueError(f"{' and '.join(given)} have {sorted(dimensions)} features: give one extractor's to all")
    return [x.double() for x in given.values()]


def unit(name: str, x: Tensor) -> Tensor:
    """The rows of x at unit Euclidean norm, in float64."""
    (x,) = matrices(1, **{name: x})
    norm = x.square().sum(1, keepdim=True).sqrt()
    if not bool((norm > 0).all()):
        raise ValueError(f"{name} has {int((norm == 0).sum())} rows of zeros: they have no direction; leave them out")
    return x / norm


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (n, m) by one matrix product; subtract a common center first where it is far."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp_min(0)


def chunks(n: int, m: int) -> Iterator[slice]:
    """Slices of n rows such that a float64 block of rows x m stays within 64 MB."""
    rows = max(1, 2**23 // m)
    return (slice(start, start + rows) for start in range(0, n, rows))


def _factor(x: Tensor, mean: Tensor) -> Tensor:
    """A factor X of the scatter, X^T X = (n - 1) S, with at most d rows."""
    x = x - mean
    if len(x) <= x.shape[1]:
        return x
    triangle: Tensor = torch.linalg.qr(x, mode="r").R
    return triangle


def _energy(x: Tensor) -> float:
    """The sum of the squares of all entries."""
    return float(torch.linalg.vector_norm(x)) ** 2


def _mean(kernel: PairKernel, a: Tensor, b: Tensor, *, same: bool = False) -> float:
    """Mean of the kernel over all pairs; of a set with itself (`same`), over pairs of different rows."""
    total = 0.0
    for rows in chunks(len(a), len(b)):
        block = kernel(a[rows], b)
        total += float(block.sum() - (block.diagonal(rows.start).sum() if same else 0))
    return total / (len(a) * (len(b) - same))


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance to the k-th nearest other row, less what rounding could add to it (of the order d * 2^-53)."""
    found = []
    for rows in chunks(len(x), len(x)):
        distance = squared(x[rows], x)
        distance.diagonal(rows.start).fill_(math.inf)
        found.append(distance.kthvalue(k, 1).values)
    radii = torch.cat(found)
    return radii - 1e-12 * (radii + x.square().sum(1))
