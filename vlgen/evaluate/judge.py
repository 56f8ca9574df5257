"""The independent judge: a linear probe that learned on real images says what synthetic ones show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlgen.evaluate.collection import Collection, Progress
from vlgen.evaluate.scores import Row
from vlgen.metrics.alignment import auroc
from vlgen.metrics.distribution import bootstrap
from vlgen.metrics.split import grouped_split
from vlgen.metrics.utility import linear_probe

if TYPE_CHECKING:
    from vlgen.features import Extractor

LEAST = 10  # images of each kind in each part: below it neither a probe nor an interval means anything
STRENGTH = 0.1  # of the probe's penalty, over the number of features: cross-validation would cost 30 fits a question
AGAINST = "held-out real images"


def judged(
    real: Collection, synthetic: Collection, extractors: Sequence[Extractor], *, seed: int, progress: Progress
) -> tuple[list[Row], list[str]]:
    """How well a judge finds in synthetic images what their reports ask for, beside its figure on real images.

    For each question of `questions` a linear probe is trained on the features of half of the real patients, tested on
    the others, and asked about the synthetic images; it never learns from them. Two answers are scored by AUROC,
    more by balanced accuracy. Intervals are bootstrap intervals over synthetic images, within each answer.

    extractors  judges are those without a text tower: a generator's own CLIP does not judge it alone. Where all have
                one they judge, and the notes say so
    """
    judges = [e for e in extractors if e.read is None] or list(extractors)
    asked = list(questions(real, synthetic))
    rows, notes, small = list[Row](), list[str](), dict[str, None]()
    todo = [(extractor.name, question) for extractor in judges for question in asked]
    for done, (name, (group, truth, wanted)) in enumerate(todo):
        progress(f"judge on {name} features", done, len(todo))
        found = _verdict(real, synthetic, name, group, truth, wanted, seed)
        if isinstance(found, Row):
            rows.append(found)
        else:
            small[found] = None
    if judges and judges[0].read is not None:
        notes.append(
            f"The judge sees with {' and '.join(e.name for e in judges)}, which reads text too and may be the "
            "generator's own: add an extractor without a text tower, such as imagenet."
        )
    if small:
        notes.append(
            f"Not judged, for want of {LEAST} images of each kind in both halves of the real patients and among the "
            f"synthetic images (real and synthetic ones): {'; '.join(small)}."
        )
    return rows, notes


def questions(real: Collection, synthetic: Collection) -> Iterator[tuple[str, list[str], list[str]]]:
    """(what is asked, each real image's answer, each synthetic image's): modality, findings, traits; "" is unknown.

    Findings and traits are asked within a modality, named where there are several: between modalities the judge
    would have to look at nothing else. Of findings, those that a synthetic image is to show.
    """
    if len({*real.modalities, *synthetic.modalities} - {""}) > 1:
        yield "modality", list(real.modalities), list(synthetic.modalities)
    shared = sorted(set(real.modalities) & set(synthetic.modalities))
    several = len({*real.modalities, *synthetic.modalities}) > 1
    for kind in shared:
        lead = f"{kind or 'unknown modality'}: " if several else ""
        inside = [row for row, own in enumerate(synthetic.modalities) if own == kind]
        shown = {name for row in inside for name, present in synthetic.findings[row].items() if present}
        for name in sorted(shown):
            yield lead + name, _findings(real, kind, name), _findings(synthetic, kind, name)
        for trait in sorted({trait for row in inside for trait in synthetic.traits[row]}):
            yield lead + trait, _traits(real, kind, trait), _traits(synthetic, kind, trait)


def area(positive: Tensor, negative: Tensor) -> float:
    """AUROC of the scores of two sets: drawn from one by one, as the bootstrap does with two samples, none is empty."""
    return auroc(torch.cat([positive, negative]), torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]))


def balanced(*hits: Tensor) -> float:
    """Balanced accuracy from what was answered right (1.0 or 0.0), one sample for each answer."""
    return float(torch.stack([own.mean() for own in hits]).mean())


def _findings(one: Collection, kind: str, name: str) -> list[str]:
    said = {True: "present", False: "absent", None: ""}
    return [
        said[stated.get(name)] if own == kind else "" for own, stated in zip(one.modalities, one.findings, strict=True)
    ]


def _traits(one: Collection, kind: str, trait: str) -> list[str]:
    return [known.get(trait, "") if own == kind else "" for own, known in zip(one.modalities, one.traits, strict=True)]


def _verdict(
    real: Collection, synthetic: Collection, name: str, group: str, truth: list[str], wanted: list[str], seed: int
) -> Row | str:
    """The row of one question, or why there is none, in numbers."""
    counts = Counter(truth), Counter(wanted)
    answers = [a for a in sorted(counts[0]) if a and counts[0][a] >= 2 * LEAST and counts[1][a] >= LEAST]
    known, asked = ([row for row, a in enumerate(part) if a in answers] for part in (truth, wanted))
    y, labels = (
        torch.tensor([answers.index(part[row]) for row in rows]) for part, rows in ((truth, known), (wanted, asked))
    )
    try:
        groups = [real.groups[row] for row in known]
        learned, tested = grouped_split(y, groups, share=0.5, seed=seed) if len(answers) > 1 else (y[:0], y[:0])
    except ValueError:  # a class of one patient cannot be on both sides
        learned, tested = y[:0], y[:0]
    fewest = min((int((y[part] == k).sum()) for part in (learned, tested) for k in range(len(answers))), default=0)
    if fewest < LEAST:
        said = [f"{a}: {counts[0][a]} and {counts[1][a]}" for a in sorted(counts[0] | counts[1]) if a]
        return f"{group} ({', '.join(said)})"
    x = real.features[name][known]
    probe = linear_probe(x[learned], y[learned], strength=STRENGTH * x.shape[1], balanced=True)
    believed = probe.probabilities(synthetic.features[name][asked])
    beside = probe.probabilities(x[tested])
    several = len(answers) > 2
    metric, figure = ("balanced accuracy of the judge", balanced) if several else ("AUROC of the judge", area)
    samples, others = (_samples(p, own) for p, own in ((believed, labels), (beside, y[tested])))
    group = f"{group} of {len(answers)}" if several else group
    interval = bootstrap(figure, *samples, seed=seed)
    return Row(metric, figure(*samples), len(labels), group, name, interval, figure(*others), AGAINST, "higher")


def _samples(believed: Tensor, labels: Tensor) -> list[Tensor]:
    """What `area` or `balanced` takes: of two answers the scores, the second answer's first; of more, the hits."""
    if believed.shape[1] == 2:
        return [believed[labels == k, 1] for k in (1, 0)]
    right = (believed.argmax(1) == labels).double()
    return [right[labels == k] for k in range(believed.shape[1])]
