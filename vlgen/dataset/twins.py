"""Twins: images so alike that they may be of one patient or copies, found by the correlation of their thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vlgen.dataset.loading import load
from vlgen.dataset.rows import Row
from vlgen.images import fit
from vlgen.modality import Modality

ALIKE = 0.97  # correlation of two thumbnails; above it, pairs of the brain MRI set have one label in 998 of 1,000 cases
# Above it, they are one picture: saved again, resized, or with its values scaled. Of 60 radiographs of 256 pixels, as
# JPEG of quality 30, of half and double the size, and paler, all were found; the three pairs among 3,749 were copies.
# A picture that was cropped, turned, inverted, written on or bent by a gamma curve is mostly not found.
COPY = 0.999
SIDE = 24
CLUSTER = "cluster of "  # what the name of a cluster begins with, where a patient's would stand


def thumbnail(x: Tensor) -> Tensor:
    """A square image (1, S, S) as 576 numbers of mean 0 and norm 1: what two pictures are compared by."""
    small = fit(x, SIDE).flatten()
    small = small - small.mean()
    unit: Tensor = small / small.norm().clamp_min(1e-6)
    return unit


def pairs(x: Tensor, alike: float) -> Iterator[tuple[int, int]]:
    """(i, j), i < j, of thumbnails (N, d) that correlate by more than `alike`."""
    for start in range(0, len(x), 1024):
        for i, j in (x[start : start + 1024] @ x.T > alike).nonzero().tolist():
            if start + i < j:
                yield start + i, j


def clusters(x: Tensor, alike: float = ALIKE) -> list[int]:
    """The cluster of each thumbnail, by the index of its first: two are of one if a chain of alike pairs links them."""
    parent = list(range(len(x)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in pairs(x, alike):
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    return [root(i) for i in range(len(x))]


def named(rows: Sequence[Row], x: Tensor, alike: float = ALIKE) -> list[Row]:
    """The rows, each with the name of its cluster for a patient; unchanged where any row names a patient."""
    if any(row.patient for row in rows):
        return list(rows)
    found = clusters(x, alike)
    return [replace(row, patient=f"{CLUSTER}{rows[found[k]].file.stem}") for k, row in enumerate(rows)]


def grouped(rows: Sequence[Row], modality: Modality, alike: float = ALIKE) -> list[Row]:
    """The rows, each with the name of its cluster for a patient; unchanged where any row names a patient.

    Two images are of one cluster if their thumbnails of 24 x 24 pixels correlate by more than `alike`, or a chain of
    such pairs links them. Splitting by cluster keeps copies and neighboring slices on one side.
    """
    if any(row.patient for row in rows):
        return list(rows)
    return named(rows, torch.stack([thumbnail(load(row, modality, SIDE)) for row in rows]), alike)
