"""Splits: which images are learned from, which are tested and which are labeled, without parting a patient."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from vlgen.tensors import counter


def grouped_split(
    labels: Tensor, groups: Sequence[Hashable], *, share: float = 1 / 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows to test on, no group on both sides, every class on both.

    labels  (N,)   bool, or 0 ... K - 1
    groups  (N,)   the patient of each row
    share   of the rows of each class that are tested, as nearly as whole groups allow

    A group belongs to its rarest class, and within it groups are drawn by seed and name, whatever the order of rows.
    """
    y, k = counted(labels)
    members = by_group(y, groups)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: give one between 0 and 1, such as 1/3")
    tested = list[int]()
    for names in strata(y, members):
        names = sorted(names, key=lambda name: (counter("split", seed, name), str(name)))
        want, have = share * sum(len(members[name]) for name in names), 0
        for place, name in enumerate(names):
            size = len(members[name])
            last = have and place == len(names) - 1  # the last one stays to learn from
            if len(names) > 1 and not last and (place == 0 or abs(have + size - want) < abs(have - want)):
                tested += members[name]
                have += size
    held = torch.zeros(len(y), dtype=torch.bool)
    held[tested] = True
    for one in range(k):
        sides = int(held[y == one].sum()), int((~held)[y == one].sum())
        if not all(sides):
            raise ValueError(
                f"class {one} has {sum(sides)} images of too few patients to be on both sides of a split: at least 2 "
                "patients with no rarer class are needed"
            )
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def budget(labels: Tensor, groups: Sequence[Hashable], n: int, *, seed: int = 0) -> Tensor:
    """n rows to be labeled, sorted: each class as often as its frequency says, at least once, from few patients.

    labels  (N,)   bool, or 0 ... K - 1
    groups  (N,)   the patient of each row
    n       K ... N

    Patients come whole, in an order by seed, until a class has its number; so each class breaks one patient at most,
    and a smaller budget of the same seed lies inside a larger one. Numbers by Sainte-Lague's divisors 1, 3, 5, ...
    """
    y, k = counted(labels)
    if not k <= n <= len(y):
        raise ValueError(f"a budget of {n} from {len(y)} images of {k} classes: give {k} to {len(y)}")
    members = by_group(y, groups)
    have = torch.bincount(y).tolist()
    want = [1] * k
    for _ in range(n - k):
        want[max(range(k), key=lambda c: have[c] / (2 * want[c] + 1) if want[c] < have[c] else -1.0)] += 1
    chosen = list[int]()
    for name in sorted(members, key=lambda name: (counter("budget", seed, name), str(name))):
        for row in members[name]:
            if want[int(y[row])]:
                want[int(y[row])] -= 1
                chosen.append(row)
    return torch.tensor(sorted(chosen))


def by_group(y: Tensor, groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The rows of each group, in the order of rows."""
    if len(groups) != len(y):
        raise ValueError(f"groups has {len(groups)} entries for {len(y)} labels: give one to each")
    members: dict[Hashable, list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault(name, []).append(row)
    return members


def strata(y: Tensor, members: dict[Hashable, list[int]]) -> list[list[Hashable]]:
    """Groups by the rarest class they hold, the rarest first."""
    count = torch.bincount(y).tolist()
    order = sorted(range(len(count)), key=lambda one: (count[one], one))
    found: dict[int, list[Hashable]] = {one: [] for one in order}
    for name, rows in members.items():
        found[min({int(y[row]) for row in rows}, key=order.index)].append(name)
    return [names for names in found.values() if names]


def counted(labels: Tensor) -> tuple[Tensor, int]:
    """Labels as (N,) int64 and the number of classes, each of which is there."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or not len(labels):
        raise ValueError(f"labels is {labels.dtype} of {tuple(labels.shape)}: give bool or whole numbers (N,)")
    y = labels.long()
    held = sorted(set(y.tolist()))
    if held != list(range(len(held))) or len(held) < 2:
        raise ValueError(f"labels holds {held[:20]}: give 0 ... K - 1, each at least once, K at least 2")
    return y, len(held)
