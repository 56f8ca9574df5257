"""Alignment: how faithful synthetic images are to their reports, by CLIP and by an independent judge."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlgen.evaluate.collection import Collection, Progress
from vlgen.evaluate.judge import LEAST, area, judged
from vlgen.evaluate.scores import Row, Section
from vlgen.metrics.alignment import Retrieval, retrieval, similarity
from vlgen.metrics.distribution import bootstrap, unit
from vlgen.metrics.share import wilson
from vlgen.report import Report
from vlgen.tensors import generator

if TYPE_CHECKING:
    from vlgen.features import Extractor

RANKS = (1, 5, 10)
FINDING = "pleural effusion"
AGAINST = "real images"


def alignment(
    real: Collection,
    synthetic: Collection,
    extractors: Sequence[Extractor],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Section:
    """Image-text similarity, retrieval, present against absent, left against right, and the judge's verdicts.

    Extractors with a text tower give the first four, the others the judge (vlgen.evaluate.judge). Every figure of
    synthetic images stands beside the same figure of real images: a CLIP that cannot read a finding in real images
    cannot say that it is missing in synthetic ones. Retrieval takes equally many of both.

    Raises ValueError where an extractor's features are not in the collections, or no extractor is given.
    """
    tell = progress or (lambda what, done, total: None)
    if not extractors:
        raise ValueError("no extractor was given: alignment needs at least one, such as mini, which reads text")
    for extractor in extractors:
        if any(extractor.name not in one.features for one in (real, synthetic)):
            raise ValueError(f"no {extractor.name} features of the images: gather both collections with this extractor")
    rows, notes = list[Row](), list[str]()
    readers = [extractor for extractor in extractors if extractor.read is not None]
    for extractor in readers:
        for found, said in (
            _agreement(real, synthetic, extractor, seed, tell),
            _smallest(real, synthetic, extractor, seed),
        ):
            rows += found
            notes += said
    if not readers:
        names = " and ".join(extractor.name for extractor in extractors)
        notes.append(f"Similarity and retrieval need an extractor that reads text, such as mini; {names} sees only.")
    found, said = judged(real, synthetic, extractors, seed=seed, progress=tell)
    return Section("alignment", "Does each image show what its report says?", (*rows, *found), (*notes, *said))


def meaning(text: str) -> Hashable:
    """What a report says that its image could show; reports of equal meaning are right answers for one another.

    A text of which nothing is understood means itself.
    """
    report = Report.parse(text)
    if not report.findings and not report.normal:
        return text
    study = (report.modality, report.view, report.sex, report.child, report.contrast, report.normal)
    return (*study, frozenset(report.findings))


@dataclass(frozen=True)
class _Told:
    """The images of a collection that have a report, as a CLIP sees and reads them: (N, d) each, and what is meant."""

    image: Tensor
    text: Tensor
    means: list[Hashable]

    def __len__(self) -> int:
        return len(self.means)


def _told(one: Collection, extractor: Extractor, tell: Progress) -> _Told:
    own = one.subset([row for row, report in enumerate(one.reports) if report])
    prompts = [Report.parse(report).prompt() for report in own.reports]
    text = _read(extractor, prompts, tell) if prompts else torch.empty(0, extractor.dimension)
    return _Told(own.features[extractor.name], text, [meaning(report) for report in own.reports])


def _agreement(
    real: Collection, synthetic: Collection, extractor: Extractor, seed: int, tell: Progress
) -> tuple[list[Row], list[str]]:
    """Similarity of image and report, and retrieval of one by the other."""
    name, ours, theirs = extractor.name, _told(synthetic, extractor, tell), _told(real, extractor, tell)
    if len(ours) < LEAST:
        return [], [f"Similarity and retrieval need {LEAST} synthetic images with a report; {len(ours)} have one."]
    notes, beside = list[str](), [theirs] if len(theirs) >= LEAST else []
    if not beside:
        notes.append(f"{len(theirs)} real images have a report: {LEAST} are needed to compare similarity with.")
    rows = []
    for metric, figure in (("image-text similarity", _own), ("image-text similarity, reports of others", _others)):
        value = figure(ours)
        reference = figure(theirs) if beside else None
        if value is None:
            notes.append("All synthetic images have reports of one meaning: none can be shown another's.")
            continue
        interval = bootstrap(_mean, similarity(ours.image, ours.text), seed=seed) if figure is _own else None
        better = "higher" if figure is _own else ""
        rows.append(Row(metric, value, len(ours), "all", name, interval, reference, _against(reference), better))
    n = min(map(len, [ours, *beside]))
    if n <= max(RANKS):
        return rows, [*notes, f"Retrieval at {max(RANKS)} needs {max(RANKS) + 1} images with a report; {n} have one."]
    found = [_retrieved(one, n, seed) for one in (ours, *beside)]
    for way in ("image_to_text", "text_to_image"):
        for k in RANKS:
            share, *other = (getattr(one, way)[k] for one in found)
            reference = other[0] if other else None
            metric, spread = f"retrieval R@{k}, {way.replace('_', ' ')}", wilson(round(share * n), n)
            rows.append(Row(metric, share, n, "all", name, spread, reference, _against(reference), "higher"))
    notes.append(
        f"Retrieval on {name} features is among {n} images. Reports of one meaning are right answers for one another: "
        f"{len(ours)} synthetic images have {len(set(ours.means))} meanings, {len(theirs)} real ones "
        f"{len(set(theirs.means))}."
    )
    return rows, notes


def _own(told: _Told) -> float:
    return _mean(similarity(told.image, told.text))


def _others(told: _Told) -> float | None:
    """Mean similarity of an image with a report of another meaning, over all such pairs: all shuffles at once."""
    x, t = unit("image", told.image), unit("text", told.text)
    total, pairs = float(x.sum(0) @ t.sum(0)), len(x) ** 2
    members: dict[Hashable, list[int]] = {}
    for row, own in enumerate(told.means):
        members.setdefault(own, []).append(row)
    for rows in members.values():
        total -= float(x[rows].sum(0) @ t[rows].sum(0))
        pairs -= len(rows) ** 2
    return total / pairs if pairs else None


def _retrieved(told: _Told, n: int, seed: int) -> Retrieval:
    """Retrieval among n of the images, by seed."""
    rows = torch.randperm(len(told), generator=generator("retrieval", seed))[:n].sort().values
    return retrieval(told.image[rows], told.text[rows], RANKS, groups=[told.means[row] for row in rows.tolist()])


def _mean(x: Tensor) -> float:
    return float(x.mean())


def _against(reference: float | None) -> str:
    return "" if reference is None else AGAINST


def _smallest(real: Collection, synthetic: Collection, extractor: Extractor, seed: int) -> tuple[list[Row], list[str]]:
    """The two smallest tests: a finding against its negation, and left against right, by the CLIP's own reading."""
    rows, notes = list[Row](), list[str]()
    for metric, group, test in (
        ("AUROC of present against absent", FINDING, _negation),
        ("AUROC of left against right", "side of the findings", _sides),
    ):
        theirs, ours = (test(one, extractor) for one in (real, synthetic))
        if min(map(len, ours)) < LEAST:
            notes.append(
                f"{metric} ({group}) needs {LEAST} synthetic images of each kind; there are {len(ours[0])} "
                f"and {len(ours[1])}."
            )
            continue
        interval = bootstrap(area, *ours, seed=seed)
        reference = area(*theirs) if min(map(len, theirs)) >= LEAST else None
        if reference is None:
            notes.append(f"{metric} ({group}) has no reference: {len(theirs[0])} and {len(theirs[1])} real images.")
        n = sum(map(len, ours))
        rows.append(
            Row(metric, area(*ours), n, group, extractor.name, interval, reference, _against(reference), "higher")
        )
    return rows, notes


def _negation(one: Collection, extractor: Extractor) -> tuple[Tensor, Tensor]:
    """sim(image, "pleural effusion") - sim(image, "no pleural effusion") where it is stated present, and absent."""
    said, denied = unit("text", _read(extractor, [FINDING, f"no {FINDING}"]))
    present, absent = (
        _seen(one, extractor, [row for row, known in enumerate(one.findings) if known.get(FINDING) is status])
        for status in (True, False)
    )
    return present @ (said - denied), absent @ (said - denied)


def _sides(one: Collection, extractor: Extractor) -> tuple[Tensor, Tensor]:
    """sim(image, "left ...") - sim(image, "right ...") where the findings present are on the left, and on the right."""
    rows = [row for row, traits in enumerate(one.traits) if "side" in traits and any(one.findings[row].values())]
    present = [[name for name, stated in one.findings[row].items() if stated] for row in rows]
    names = sorted({name for own in present for name in own})
    if not names:
        return torch.empty(0), torch.empty(0)
    sides = [unit("text", _read(extractor, [f"{side} {name}" for name in names])) for side in ("left", "right")]
    toward = sides[0] - sides[1]
    wanted = torch.stack([toward[[names.index(name) for name in own]].mean(0) for own in present])
    scores = (_seen(one, extractor, rows) * wanted).sum(1)
    left = torch.tensor([one.traits[row]["side"] == "left" for row in rows])
    return scores[left], scores[~left]


def _seen(one: Collection, extractor: Extractor, rows: Sequence[int]) -> Tensor:
    """The images' features at unit norm."""
    x = one.features[extractor.name]
    return unit("images", x[list(rows)]) if rows else x[:0].double()


def _read(extractor: Extractor, texts: Sequence[str], tell: Progress = lambda what, done, total: None) -> Tensor:
    """(N, d) features of texts; each different text is read once."""
    assert extractor.read is not None
    different = list(dict.fromkeys(texts))
    parts = []
    for start in range(0, len(different), 64):
        tell(f"{extractor.name} reading", start, len(different))
        parts.append(extractor.read(different[start : start + 64]).float().cpu())
    tell(f"{extractor.name} reading", len(different), len(different))
    place = {text: row for row, text in enumerate(different)}
    return torch.cat(parts)[[place[text] for text in texts]]
