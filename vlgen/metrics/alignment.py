"""How faithful an image is to its words: similarity, retrieval, and how well a score tells present from absent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlgen.metrics.distribution import chunks, matrices, unit


def similarity(image: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of each image with its own text, in [-1, 1].

    image, text  (N, d), row i of one belongs to row i of the other
    result       (N,) float64
    """
    _paired(image, text)
    return (unit("image", image) * unit("text", text)).sum(1)


class Retrieval(NamedTuple):
    """Recall at k in both directions: {k: share of queries with a right answer among the k nearest}."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


def retrieval(
    image: Tensor, text: Tensor, ks: Sequence[int] = (1, 5, 10), *, groups: Sequence[Hashable] | None = None
) -> Retrieval:
    """Recall at k by cosine similarity: is the right text among an image's k nearest, and the reverse.

    image, text  (N, d), row i of one belongs to row i of the other; N > max(ks)
    groups       (N,)   rows of equal value mean the same, and any of them is a right answer; None: only row i is

    A wrong answer that is as near as the right one counts as nearer (up to 1e-12, for rounding), so that a collapsed
    encoder scores 0, not 1. Reports often repeat word for word: without `groups`, each repeat is such a tie.
    """
    _paired(image, text)
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}: give ranks of at least 1, such as (1, 5, 10)")
    if len(image) <= max(ks):
        raise ValueError(f"image has {len(image)} rows: recall at {max(ks)} needs at least {max(ks) + 1}")
    if groups is not None and len(groups) != len(image):
        raise ValueError(f"groups has {len(groups)} entries for {len(image)} pairs: give one to each")
    numbers: dict[Hashable, int] = {}
    labels = range(len(image)) if groups is None else groups
    if isinstance(labels, Tensor):  # its elements hash by identity, not by value
        labels = labels.tolist()
    group = torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels], device=image.device)
    pictures, words = unit("image", image), unit("text", text)
    found = []
    for queries, answers in ((pictures, words), (words, pictures)):
        wrong = torch.cat(
            [_wrong_before(queries[rows] @ answers.T, group[rows], group) for rows in chunks(len(group), len(group))]
        )
        found.append({k: float((wrong < k).double().mean()) for k in ks})
    return Retrieval(*found)


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    scores  (N,)
    labels  (N,)   bool, or 0 and 1

    Mann and Whitney's U over the number of pairs; Hanley and McNeil 1982.
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores of {tuple(scores.shape)} and labels of {tuple(labels.shape)}: give (N,) and (N,)")
    _finite(scores=scores)
    positive = labels == 1
    if not bool((positive | (labels == 0)).all()):
        raise ValueError("labels holds values other than 0 and 1: leave uncertain ones out")
    if not 0 < int(positive.sum()) < len(labels):
        raise ValueError(
            f"labels has {int(positive.sum())} positives among {len(labels)}: at least 1 positive and 1 negative are "
            "needed"
        )
    right, wrong = scores[positive].double(), scores[~positive].double().sort().values
    below = torch.searchsorted(wrong, right) + torch.searchsorted(wrong, right, right=True)
    return float(below.double().mean()) / (2 * len(wrong))


def preference(right: Tensor, wrong: Tensor) -> float:
    """Share of pairs in which the right one scores higher, ties counting one half: 0.5 is chance.

    right, wrong  (N,)   such as an image's similarity with "left pleural effusion" and with "right pleural effusion"
    """
    if right.ndim != 1 or right.shape != wrong.shape or not len(right):
        raise ValueError(f"scores of {tuple(right.shape)} and {tuple(wrong.shape)}: give two of one shape (N,), N >= 1")
    _finite(right=right, wrong=wrong)
    return float(((right > wrong).double() + (right == wrong).double() / 2).mean())


def _wrong_before(score: Tensor, own: Tensor, group: Tensor) -> Tensor:
    """How many wrong answers are at least as near as the nearest right one, for each query."""
    right = own[:, None] == group
    best = score.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((score >= best - 1e-12) & ~right).sum(1)


def _paired(image: Tensor, text: Tensor) -> None:
    matrices(1, image=image, text=text)
    if len(image) != len(text):
        raise ValueError(f"{len(image)} images and {len(text)} texts: give one text to each image")


def _finite(**given: Tensor) -> None:
    for name, values in given.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} has {int((~values.isfinite()).sum())} values that are not finite: leave them out")
