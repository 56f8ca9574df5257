"""The exact oracle, and a test of whether two samples have one law."""

from __future__ import annotations

import torch
from torch import Tensor

from vlgen.benchmark.mixture import THREE, Mixture, scale_nodes

__all__ = ["THREE", "Mixture", "same_law", "scale_nodes"]


def same_law(a: Tensor, b: Tensor, *, orders: int = 1000) -> float:
    """How often two samples of one law are further apart than these in energy distance: a permutation test's p.

    Energy distance 2 E|a - b| - E|a - a'| - E|b - b'| is 0 for equal laws alone (Szekely and Rizzo 2013).
    """
    both = torch.cat([a, b]).flatten(1).float()
    apart = torch.cdist(both, both)
    label = torch.cat([torch.full((len(a),), 1 / len(a)), torch.full((len(b),), -1 / len(b))]).to(both)
    draw = torch.Generator().manual_seed(0)
    mixed = torch.stack([label, *(label[torch.randperm(len(label), generator=draw)] for _ in range(orders))])
    distance = -((mixed @ apart) * mixed).sum(1)
    return float((distance >= distance[0] * (1 - 1e-12)).double().mean())
