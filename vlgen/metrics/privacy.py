"""What a generator gives away of its training images: nearest neighbors, copies, membership.

train, held_out, fake are features of one extractor, (images, d). Held-out images come from the same source as the
training images and from other patients: that is what makes their distances the yardstick.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vlgen.metrics.alignment import auroc
from vlgen.metrics.distribution import bootstrap, chunks, matrices, squared
from vlgen.tensors import generator


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance from each row of a to its nearest row of b, and that row's index; 0 for an exact copy.

    a, b    (N, d), (M, d)
    result  (N,) float64 and (N,) int64
    """
    a, b = matrices(1, a=a, b=b)
    center = b.mean(0)
    near, far = a - center, b - center  # for the search by matrix product, which cancels less about the center
    index = torch.cat([squared(near[rows], far).argmin(1) for rows in chunks(len(a), len(b))])
    distance = torch.cat([(a[rows] - b[index[rows]]).norm(dim=1) for rows in chunks(len(a), a.shape[1])])
    return distance, index


def nn_ratio(fake: Tensor, train: Tensor, held_out: Tensor, *, seed: int = 0) -> Tensor:
    """Nearest-neighbor ratio: distance to the nearest training image over distance to the nearest held-out image.

    About 1 (in the median) for a generator that has learned the distribution, below 1 for images that lie closer to
    the training images than to unseen ones of the same kind: report the median and the 1st percentile.

    A larger reference set has a nearer neighbor by chance alone: the distance falls as its size to the power -1/d', d'
    the intrinsic dimension, so ten times the training images would give 0.63 at d' = 5 with nothing memorized. So the
    larger set is cut to the size of the smaller, by `seed`; an image whose original was cut away is not found here, and
    that is the work of `copies`.

    result  (N,) float64; 1 where both distances are 0, infinite where only the held-out one is
    """
    fake, train, held_out = matrices(1, fake=fake, train=train, held_out=held_out)
    size = min(len(train), len(held_out))
    train, held_out = (_subset(x, size, name, seed) for name, x in (("train", train), ("held_out", held_out)))
    to_train, to_held_out = nearest(fake, train)[0], nearest(fake, held_out)[0]
    return torch.where(to_train == to_held_out, 1.0, to_train / to_held_out)


def copy_threshold(train: Tensor, held_out: Tensor, rate: float = 0.01) -> float:
    """The distance below which an image counts as a copy: at most `rate` of unseen real images would lie below it.

    The k-th smallest distance from a held-out image to its nearest training image, k = floor(rate (n + 1)): fewer than
    k of the n held-out images lie below it, and a new image of their distribution does with probability k / (n + 1)
    (split-conformal calibration; Vovk et al. 2005). It holds for this training set: calibrate again for another.

    held_out  (n, d), n >= 1 / rate - 1: 99 images for 1 %
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}: give a share of false alarms between 0 and 1, such as 0.01")
    train, held_out = matrices(1, train=train, held_out=held_out)
    k = math.floor(rate * (len(held_out) + 1) + 1e-9)  # 1e-9: 0.29 * 100 is a little below 29
    if k < 1:
        raise ValueError(
            f"held_out has {len(held_out)} images: a threshold at a false-alarm rate of {rate:g} needs at least "
            f"{math.ceil(1 / rate - 1e-9) - 1}"
        )
    threshold = float(nearest(held_out, train)[0].sort().values[k - 1])
    if threshold == 0:
        raise ValueError(
            f"at least {k} of {len(held_out)} held-out images equal a training image: take held-out images of other "
            "patients, and remove duplicates"
        )
    return threshold


def copies(fake: Tensor, train: Tensor, threshold: float) -> Tensor:
    """Which images lie closer to a training image than `threshold`, as `copy_threshold` calibrates it.

    result  (N,) bool; its sum is the count, to be read beside the rate * N that are expected of unseen real images
    """
    if not (threshold > 0 and math.isfinite(threshold)):
        raise ValueError(f"threshold is {threshold}: give a distance above 0, such as copy_threshold(train, held_out)")
    return nearest(fake, train)[0] < threshold


class Membership(NamedTuple):
    """How well a loss tells training images from others: figures with their 95 % intervals. AUC 0.5 is chance."""

    auc: float
    auc_interval: tuple[float, float]
    tpr: float  # share of the members found while at most `fpr` of the others are accused
    tpr_interval: tuple[float, float]
    fpr: float


def membership(
    losses_members: Tensor, losses_non: Tensor, fpr: float = 0.01, *, draws: int = 1000, seed: int = 0
) -> Membership:
    """Membership inference by a threshold on the loss: AUC, and true-positive rate at a low false-positive rate.

    losses_members  (n,)   a training image's loss is expected to be lower
    losses_non      (m,)   of held-out images, m >= 1 / fpr: 100 images for 1 %

    Yeom et al. 2018, arXiv:1709.01604 (the attack); Carlini et al. 2022, arXiv:2112.03570 (why the low false-positive
    rate is the figure that matters). Intervals by bootstrap over both sets; the threshold is chosen again in each draw.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"fpr is {fpr}: give a share between 0 and 1, such as 0.01")
    for name, losses, need in (
        ("losses_members", losses_members, 2),
        ("losses_non", losses_non, max(2, math.ceil(1 / fpr - 1e-9))),
    ):
        if losses.ndim != 1 or not losses.is_floating_point() or not bool(losses.isfinite().all()):
            raise ValueError(f"{name} is {losses.dtype} of {tuple(losses.shape)}: give finite losses, one per image")
        if len(losses) < need:
            raise ValueError(f"{name} has {len(losses)} images: at least {need} are needed")
    members, others = losses_members.double(), losses_non.double()

    def area(low: Tensor, high: Tensor) -> float:
        labels = torch.cat([torch.ones_like(low), torch.zeros_like(high)])
        return auroc(-torch.cat([low, high]), labels)

    def found(low: Tensor, high: Tensor) -> float:
        threshold = high.sort().values[math.floor(fpr * len(high) + 1e-9)]  # at most fpr of the others lie below
        return float((low < threshold).double().mean())

    auc_interval = bootstrap(area, members, others, draws=draws, seed=seed)
    tpr_interval = bootstrap(found, members, others, draws=draws, seed=seed)
    return Membership(area(members, others), auc_interval, found(members, others), tpr_interval, fpr)


def _subset(x: Tensor, size: int, name: str, seed: int) -> Tensor:
    """`size` rows of x, by seed; all of them in their order where x has no more."""
    if len(x) == size:
        return x
    return x[torch.randperm(len(x), generator=generator("nn ratio", seed, name))[:size].to(x.device)]
