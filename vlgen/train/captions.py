"""Captions: what the text tower reads of a row, in the report's own words and composed anew from its facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlgen.backbone import Backbone
from vlgen.modality import Modality
from vlgen.plan import LONGEST, digest
from vlgen.report import Report
from vlgen.tensors import counter, generator


@dataclass(frozen=True, repr=False)
class Captions:
    """The texts of some rows: the first of each is its own, the others were composed.

    drop  share of draws that are empty
    """

    texts: tuple[tuple[str, ...], ...]
    drop: float
    seed: int

    def draw(self, row: int, number: int) -> str:
        """The text of a row for the draw of that number: empty, its own words, or one of the others, half and half."""
        empty, own, other = (float(u) for u in _uniform(self.seed, number))
        if empty < self.drop:
            return ""
        first, *rest = self.texts[row]
        return first if own < 0.5 or not rest else rest[int(other * len(rest))]

    def all(self) -> list[str]:
        """Every text that may be drawn, the empty one too."""
        return ["", *(text for texts in self.texts for text in texts)]


def _uniform(seed: int, number: int) -> list[float]:
    import torch

    found: list[float] = torch.rand(3, generator=generator(seed, "caption", number)).tolist()
    return found


def captions(reports: Sequence[str], kind: Modality, *, phrasings: int, drop: float, seed: int) -> Captions:
    """The captions of reports, each with at most so many phrasings of its facts besides its own words.

    A report that names no modality gets the title of `kind` put before it, as it does when images are asked for.
    A report without findings that the parser knows is not composed: what it does not know would be lost.
    """
    known: dict[str, tuple[str, ...]] = {}
    for text in reports:
        if text not in known:
            known[text] = _captions(text, kind, phrasings, seed)
    return Captions(tuple(known[text] for text in reports), drop, seed)


def _captions(text: str, kind: Modality, phrasings: int, seed: int) -> tuple[str, ...]:
    report = Report.parse(text[:LONGEST])

    def headed(said: str) -> str:
        return said if report.modality else f"{kind.title[0].upper()}{kind.title[1:]}. {said}"

    found = [headed(report.prompt())]
    if report.findings or report.normal:
        mark = digest(text)
        found += [headed(report.compose(counter("phrasing", seed, mark, k))) for k in range(phrasings)]
    return tuple(dict.fromkeys(found))


def named(reports: Sequence[str]) -> set[str]:
    """The modalities that reports name."""
    return {name for text in set(reports) if (name := Report.parse(text[:LONGEST]).modality)}


def tokens(backbone: Backbone, found: Captions) -> dict[str, float]:
    """How long the rows' own texts are for the tower: mean and most tokens, and how many rows lose some."""
    read = {text: backbone.tokens(text) for text in {texts[0] for texts in found.texts}}
    kept = [read[texts[0]] for texts in found.texts]
    return {
        "mean": sum(each.kept for each in kept) / max(1, len(kept)),
        "most": max((each.kept for each in kept), default=0),
        "cut": sum(each.dropped > 0 for each in kept),
    }
