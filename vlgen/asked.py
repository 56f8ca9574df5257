"""Asked: texts, counts and seeds that people give, held to what can be done."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 20_000  # characters: ten times a long report; beyond it is a file given by mistake
MOST = 10_000  # images of one call


def words(text: str, what: str) -> str:
    """A text that can be read; a ValueError says what it is not."""
    if not isinstance(text, str):
        raise ValueError(f"the {what} is a {type(text).__name__}: give text")
    if len(text) > LONGEST:
        raise ValueError(f"the {what} has {len(text):,} characters: give at most {LONGEST:,}")
    if not text.strip():
        raise ValueError(f"the {what} is empty: write what the image should show")
    if not any(c.isascii() and c.isalpha() for c in text):
        raise ValueError(f"the {what} has no English word: the models read English reports")
    return text


def count(steps: object) -> int:
    """A number of solver steps, 1 to 1000; ValueError otherwise."""
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 1000:
        raise ValueError(f"steps is {steps!r}: give a whole number from 1 to 1000")
    return steps


def numbers(seeds: Iterable[int]) -> tuple[int, ...]:
    """Seeds, 1 to 10,000 whole numbers from 0 to 2^63 - 1; ValueError otherwise."""
    found = tuple(seeds)
    if not found or len(found) > MOST:
        raise ValueError(f"{len(found):,} seeds were given: give 1 to {MOST:,}")
    for seed in found:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ValueError(f"seed {seed!r}: give whole numbers from 0 to 2^63 - 1")
    return found
