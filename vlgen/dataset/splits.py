"""Splits: rows into parts, all of a patient's in one; and the word of a table that has split them already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vlgen.dataset.rows import Row
from vlgen.dataset.twins import CLUSTER
from vlgen.tensors import counter

# What a column `split` may say, and the side it means.
SIDES = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "val": "test", "valid": "test", "validation": "test", "dev": "test",
    "held-out": "test", "held_out": "test", "holdout": "test",
}  # fmt: skip


def split(rows: Iterable[Row], shares: Mapping[str, float] | None = None, seed: int = 0) -> dict[str, tuple[Row, ...]]:
    """Rows by the name of their part; all rows of a patient are in one part.

    The part follows from the seed and the patient alone (the file's stem where the patient is unknown), so that a
    row added later moves no other. Shares, by default 0.9 train and 0.1 test, are met in expectation
    over patients; a part of a small dataset may be empty.
    """
    shares = {"train": 0.9, "test": 0.1} if shares is None else shares
    if not shares or any(not share >= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)}: give parts of at least 0 that sum to 1")
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    last = [name for name, share in shares.items() if share > 0][-1]
    for row in rows:
        point = counter("split", seed, row.patient or row.file.stem) / 2**63
        for name, share in shares.items():
            if point < share or name == last:
                parts[name].append(row)
                break
            point -= share
    return {name: tuple(part) for name, part in parts.items()}


def stated(rows: Sequence[Row]) -> dict[str, tuple[Row, ...]]:
    """Rows as their column `split` puts them: train, and test for whatever else is held out.

    Raises ValueError, by line, where a row does not say it or says another word, and where rows of one patient, or of
    one file, are on both sides. Clusters of twins are no patients: a table may have parted them.
    """
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    first: dict[str, tuple[str, int]] = {}
    for row in rows:
        side = SIDES.get(row.facts.get("split", "").lower(), "")
        if not side:
            raise ValueError(f"line {row.line}: its column split says neither train nor test: mend it")
        there, line = first.setdefault(_who(row), (side, row.line))
        if there != side:
            raise ValueError(
                f"lines {line} and {row.line} are of one patient on both sides of the split: put all on one side, or "
                "let vlgen split by patient (--split patient)"
            )
        parts[side].append(row)
    return {name: tuple(part) for name, part in parts.items()}


def _who(row: Row) -> str:
    return row.patient if row.patient and not row.patient.startswith(CLUSTER) else str(row.file)
