"""Phrases found in the words of a sentence, whatever their number, case and hyphens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")

# A phrase with a gap ("heart .. enlarged") does not reach over these.
_BREAKS = frozenset((";", ":", "?", "but", "however", "with", "without", "there", "although", "no"))
_TOKEN = re.compile(r"\d+\.\d+|[^\W_]+|[,;:()?]")


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """A word's singular by the regular rules, so that one phrase reads both numbers."""
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "shes", "ches")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def tokens(text: str) -> list[str]:
    """Lower-case singular words and the punctuation that bounds a clause; hyphens and slashes part words."""
    return [singular(token) for token in _TOKEN.findall(text.lower())]


class Lexicon(Generic[T]):
    """Phrases and what they mean; ".." in a phrase stands for up to `gap` words within a clause."""

    def __init__(self, phrases: Iterable[tuple[str, T]], *, gap: int = 11) -> None:
        self._gap = gap
        self._rows: dict[str, list[tuple[list[str], list[str], T]]] = {}
        for phrase, value in phrases:
            head, _, tail = phrase.partition(" .. ")
            first = tokens(head)
            self._rows.setdefault(first[0], []).append((first, tokens(tail), value))
        for rows in self._rows.values():
            rows.sort(key=lambda row: (-len(row[0]), not row[1]))

    def __contains__(self, word: str) -> bool:
        """Whether any phrase starts with a word; most words start none."""
        return word in self._rows

    def at(self, words: list[str], i: int) -> tuple[int, T] | None:
        """The phrase that starts at word i, as (end, value): the longest, then the narrowest gap."""
        best: tuple[int, T] | None = None
        for head, tail, value in self._rows.get(words[i], ()):
            j = i + len(head)
            if words[i:j] != head:
                continue
            if not tail:
                return best or (j, value)
            for k in range(j, min(j + self._gap + 1, len(words))):
                if words[k] in _BREAKS or (best is not None and k + len(tail) > best[0]):
                    break
                if words[k] == tail[0] and words[k : k + len(tail)] == tail:
                    # A narrower gap is the nearer predicate: "heart is enlarged, mediastinum normal".
                    if best is None or k + len(tail) < best[0]:
                        best = (k + len(tail), value)
                    break
        return best
