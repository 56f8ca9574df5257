"""Faithfulness to reports: a CLIP that sees all or nothing, a judge that must be right or guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlgen.evaluate.alignment import alignment, meaning
from vlgen.evaluate.collection import Collection
from vlgen.evaluate.facts import known_findings, known_traits
from vlgen.evaluate.judge import judged, questions
from vlgen.evaluate.scores import Row, Section
from vlgen.features import Extractor
from vlgen.report import Report
from vlgen.tensors import counter

D = 48


def points(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def axis(*words: str) -> Tensor:
    """The direction in which a fact lies."""
    return points(1, D, counter("axis", *words))[0]


def read(texts: Sequence[str]) -> Tensor:
    """A text tower that understands a report: the sum of the directions of what it states."""
    rows = []
    for text in texts:
        report = Report.parse(text)
        parts = [axis("normal")] if report.normal else []
        for finding in report.findings:
            parts.append(axis(finding.name, finding.status))
            parts += [axis(finding.side)] if finding.side and finding.status == "present" else []
        rows.append(torch.stack(parts).sum(0) if parts else axis(text))
    return torch.stack(rows)


def see(x: Tensor) -> Tensor:
    raise AssertionError("features of images are in the collection")


READER = Extractor("reader", D, 8, "0", see, read)
JUDGE = Extractor("judge", D, 8, "1", see)


def collection(
    reports: Sequence[str],
    features: Mapping[str, Tensor],
    *,
    groups: Sequence[str] | None = None,
    records: Sequence[Mapping[str, str]] | None = None,
) -> Collection:
    parsed = [Report.parse(report) for report in reports]
    facts = records or [{}] * len(parsed)
    return Collection(
        Path("folder"),
        tuple(Path("folder") / f"{k}.png" for k in range(len(reports))),
        tuple(report.text for report in parsed),
        tuple(groups or [f"{k}.png" for k in range(len(reports))]),
        tuple(report.modality for report in parsed),
        tuple(known_findings(report) for report in parsed),
        tuple(known_traits(report, record) for report, record in zip(parsed, facts, strict=True)),
        features=features,
    )


FINDINGS = ("pneumothorax", "cardiomegaly", "edema", "nodule", "fracture")


def chest(n: int, seed: int) -> list[str]:
    """Chest reports: an effusion on some side or none, and one of five other findings present or absent."""
    g = torch.Generator().manual_seed(seed)
    kinds = list(product(("Left pleural effusion.", "Right pleural effusion.", "No pleural effusion."), FINDINGS))
    texts = []
    for k in torch.randint(len(kinds), (n,), generator=g).tolist():
        effusion, other = kinds[k]
        texts.append(
            f"{('PA', 'AP')[k % 2]} chest radiograph. {effusion} {'No ' * (k % 3 == 0)}{other}.".replace("No c", "No C")
        )
    return texts


def faithful(reports: Sequence[str], seed: int, noise: float = 0.3) -> Tensor:
    return read(reports) + noise * points(len(reports), D, seed)


def rows(section: Section, metric: str, features: str = "reader") -> list[Row]:
    return [r for r in section.rows if r.metric == metric and r.features == features]


@pytest.fixture(scope="module")
def pair() -> tuple[Collection, Collection]:
    real, fake = chest(180, 1), chest(90, 2)
    sets = [
        collection(texts, {"reader": faithful(texts, seed), "judge": faithful(texts, seed + 5)})
        for texts, seed in ((real, 3), (fake, 4))
    ]
    return sets[0], sets[1]


def test_a_faithful_generator_scores_as_real_images_do(pair: tuple[Collection, Collection]) -> None:
    section = alignment(*pair, [READER])
    (similarity,) = rows(section, "image-text similarity")
    (others,) = rows(section, "image-text similarity, reports of others")
    assert similarity.n == 90 and similarity.value > 0.9 and similarity.against == "real images"
    assert similarity.interval and similarity.interval[0] < similarity.value < similarity.interval[1]
    assert similarity.reference is not None and abs(similarity.reference - similarity.value) < 0.02
    assert others.value < 0.6 * similarity.value and others.reference is not None
    for way, k in product(("image to text", "text to image"), (1, 5, 10)):
        (recall,) = rows(section, f"retrieval R@{k}, {way}")
        assert (recall.value, recall.reference, recall.n) == (1, 1, 90), "any report of its meaning is right"
        assert recall.interval and recall.interval[0] > 0.95
    (negation,) = rows(section, "AUROC of present against absent")
    (side,) = rows(section, "AUROC of left against right")
    assert negation.value == side.value == negation.reference == side.reference == 1.0
    assert negation.group == "pleural effusion" and 20 < side.n < negation.n == 90


def test_a_generator_that_ignores_its_report_is_found_beside_real_images(pair: tuple[Collection, Collection]) -> None:
    real, fake = pair
    order = torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))
    deaf = replace(fake, features={name: x[order] for name, x in fake.features.items()})
    section = alignment(real, deaf, [READER, JUDGE])
    (similarity,) = rows(section, "image-text similarity")
    (others,) = rows(section, "image-text similarity, reports of others")
    assert similarity.interval and others.value < similarity.interval[1] and similarity.value < 0.7
    assert similarity.reference and similarity.reference > 0.9
    (recall,) = rows(section, "retrieval R@1, image to text")
    assert recall.value < 0.2 and recall.reference == 1
    for metric in ("AUROC of present against absent", "AUROC of left against right"):
        (row,) = rows(section, metric)
        # the scatter of an AUROC of 30 against 60 by chance is sqrt(91 / (12 * 30 * 60)) = 0.065
        assert abs(row.value - 0.5) < 0.22 and row.reference == 1 and row.interval
        assert row.interval[0] < 0.5 + 0.1 and row.interval[1] < 0.85
    verdicts = rows(section, "AUROC of the judge", "judge")
    assert verdicts and all(abs(row.value - 0.5) < 0.2 and (row.reference or 0) > 0.9 for row in verdicts)


def test_a_clip_that_takes_left_for_right_and_no_for_yes_scores_zero(pair: tuple[Collection, Collection]) -> None:
    def turned(text: str) -> str:
        for said, understood in (("left ", "right "), ("right ", "left "), ("no ", "")):
            if text.startswith(said):
                return understood + text.removeprefix(said)
        return f"no {text}" if text == "pleural effusion" else text

    def confused(texts: Sequence[str]) -> Tensor:
        return read([turned(text) for text in texts])

    section = alignment(*pair, [replace(READER, read=confused)])
    assert rows(section, "AUROC of present against absent")[0].value == 0
    assert rows(section, "AUROC of left against right")[0].value == 0


def test_similarity_with_the_reports_of_others_is_the_mean_over_all_pairs_of_other_meaning() -> None:
    texts = chest(30, 7)
    x, t = faithful(texts, 1).double(), read(texts).double()
    x, t = x / x.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    means = [meaning(text) for text in texts]
    others = [float(x[i] @ t[j]) for i, j in product(range(30), range(30)) if means[i] != means[j]]
    one = collection(texts, {"reader": faithful(texts, 1)})
    section = alignment(one, one, [READER])
    (row,) = rows(section, "image-text similarity, reports of others")
    assert math.isclose(row.value, sum(others) / len(others), rel_tol=1e-9) and row.reference == row.value
    (own,) = rows(section, "image-text similarity")
    assert math.isclose(own.value, float((x * t).sum(1).mean()), rel_tol=1e-9)


def test_reports_of_one_meaning_are_one_answer() -> None:
    same = ("Small left pleural effusion. No pneumothorax.", "No pneumothorax. A small effusion on the left.")
    assert meaning(same[0]) == meaning(same[1])
    for other in ("Small right pleural effusion. No pneumothorax.", "Small left pleural effusion.", "Normal chest."):
        assert meaning(other) != meaning(same[0])
    assert meaning("A picture.") != meaning("Another picture."), "what is not understood means itself"
    assert meaning("") == meaning("")


def test_order_and_seed(pair: tuple[Collection, Collection]) -> None:
    real, fake = pair
    real = real.subset(range(90))  # of equal size: nothing is drawn for retrieval
    once, twice = (alignment(real, fake, [READER, JUDGE], seed=3) for _ in range(2))
    assert once == twice
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    turned = alignment(real, fake.subset(order), [READER, JUDGE], seed=3)
    for a, b in zip(once.rows, turned.rows, strict=True):
        assert (a.metric, a.group, a.n) == (b.metric, b.group, b.n) and math.isclose(a.value, b.value, rel_tol=1e-9)


def brain(n: int) -> list[str]:
    texts = ("Brain MRI. Glioma.", "Brain MRI. Meningioma.", "Brain MRI. Pituitary tumor.", "Brain MRI. No tumor.")
    return [texts[k % 4] for k in range(n)]


def test_the_judge_is_right_where_it_must_be_and_guesses_where_labels_mean_nothing() -> None:
    real, fake = brain(160), brain(80)
    patients = [f"p{k // 2 % 40}" for k in range(160)]
    sets = [
        collection(texts, {"judge": faithful(texts, seed)}, groups=groups)
        for texts, seed, groups in ((real, 1, patients), (fake, 2, None))
    ]
    found, _ = judged(*sets, [JUDGE], seed=0, progress=lambda what, done, total: None)
    (kinds,) = [row for row in found if row.group == "class of 4"]
    assert kinds.metric == "balanced accuracy of the judge" and (kinds.value, kinds.n) == (1.0, 80)
    assert (kinds.reference, kinds.against, kinds.interval) == (1.0, "held-out real images", (1.0, 1.0))
    tumors = {row.group: row for row in found if row.metric == "AUROC of the judge"}
    assert set(tumors) == {"glioma", "meningioma", "pituitary tumor"}
    assert all((row.value, row.reference, row.n) == (1.0, 1.0, 40) for row in tumors.values()), "against no tumor"
    noise = [replace(one, features={"judge": points(len(one), D, k)}) for k, one in enumerate(sets)]
    (*_, guess), _ = judged(*noise, [JUDGE], seed=0, progress=lambda what, done, total: None)
    assert abs(guess.value - 0.25) < 0.15 and abs((guess.reference or 0) - 0.25) < 0.15, "3 sqrt(3 / 16 / 80) = 0.145"
    mixed = replace(sets[1], features={"judge": sets[1].features["judge"].roll(1, 0)})
    (*_, wrong), _ = judged(sets[0], mixed, [JUDGE], seed=0, progress=lambda what, done, total: None)
    assert (wrong.value, wrong.reference) == (0.0, 1.0), "every image shows the next one's report"


def test_the_judge_never_learns_from_synthetic_images_nor_from_the_patients_it_is_tested_on() -> None:
    texts = [f"PA chest radiograph. {'' if k % 2 else 'No '}pleural effusion." for k in range(80)]
    # features that tell patients apart, and nothing else: whoever saw the patient knows the answer
    patients = [f"p{k // 4}" for k in range(80)]
    of_patient = torch.stack([points(1, D, counter(name))[0] for name in patients])
    texts = [texts[k // 4 % 2] for k in range(80)]
    real = collection(texts, {"judge": of_patient}, groups=patients)
    apart = collection(texts, {"judge": of_patient})
    fake = collection(chest(60, 1), {"judge": points(60, D, 1)})
    (row,), _ = judged(real, fake, [JUDGE], seed=0, progress=lambda what, done, total: None)
    (leaky,), _ = judged(apart, fake, [JUDGE], seed=0, progress=lambda what, done, total: None)
    assert leaky.reference == 1.0 and row.reference is not None and row.reference < 0.95
    assert row.group == "pleural effusion"
    other = replace(fake, features={"judge": points(60, D, 9)})
    (again,), _ = judged(real, other, [JUDGE], seed=0, progress=lambda what, done, total: None)
    assert again.reference == row.reference and again.value != row.value


def test_the_judge_asks_within_a_modality_and_tells_modalities_apart() -> None:
    texts = [*chest(120, 1), *brain(120)]
    records = [{"age": "7"} if k % 2 else {"age": "40"} for k in range(240)]
    both = collection(texts, {"judge": faithful(texts, 1)}, records=records)
    asked = {group: (truth, wanted) for group, truth, wanted in questions(both, both)}
    assert {"modality", "cxr: pleural effusion", "cxr: view", "cxr: age group", "mri: age group", "mri: class"} <= set(
        asked
    )
    assert set(asked["modality"][0]) == {"cxr", "mri"} and set(asked["cxr: view"][0]) == {"PA", "AP", ""}
    assert set(asked["cxr: pleural effusion"][0][120:]) == {""}, "a brain is no example of a chest without effusion"
    assert set(asked["cxr: age group"][1][:120]) == {"child", "adult"}
    found, _ = judged(both, both, [JUDGE], seed=0, progress=lambda what, done, total: None)
    (told,) = [row for row in found if row.group == "modality"]
    assert (told.metric, told.n, told.value) == ("AUROC of the judge", 240, 1.0)
    alone = both.subset(range(120))
    assert {group for group, *_ in questions(alone, alone)} >= {"pleural effusion", "view", "age group", "side"}


def test_the_independent_judge_is_preferred_and_a_clip_alone_is_said(pair: tuple[Collection, Collection]) -> None:
    judges = {row.features for row in alignment(*pair, [READER, JUDGE]).rows if "judge" in row.metric}
    assert judges == {"judge"}
    section = alignment(*pair, [READER])
    assert {row.features for row in section.rows if "judge" in row.metric} == {"reader"}
    assert any("add an extractor without a text tower" in note for note in section.notes)
    seeing = alignment(*pair, [JUDGE])
    assert all("of the judge" in row.metric for row in seeing.rows)
    assert any("need an extractor that reads text" in note for note in seeing.notes)


def test_too_few_images_are_said_in_numbers(pair: tuple[Collection, Collection]) -> None:
    real, fake = pair
    few = alignment(real, fake.subset(range(9)), [READER, JUDGE])
    assert not few.rows
    assert any("need 10 synthetic images with a report; 9 have one" in note for note in few.notes)
    assert any(note.startswith("AUROC of left against right (side of the findings) needs 10") for note in few.notes)
    (missing,) = [note for note in few.notes if note.startswith("Not judged")]
    assert "pleural effusion (absent: " in missing and "want of 10 images of each kind" in missing
    ten = alignment(real, fake.subset(range(10)), [READER])
    assert len(rows(ten, "image-text similarity")) == 1
    assert any("Retrieval at 10 needs 11 images with a report; 10 have one" in note for note in ten.notes)
    silent = alignment(replace(real, reports=("",) * len(real)), fake, [READER])
    (similarity,) = rows(silent, "image-text similarity")
    assert similarity.reference is None and similarity.against == ""
    (recall,) = rows(silent, "retrieval R@1, image to text")
    assert recall.reference is None and recall.n == 90
    assert any("0 real images have a report" in note for note in silent.notes)
    texts = [f"Chest radiograph. {'' if k < 30 else 'No '}pleural effusion." for k in range(60)]
    lonely = collection(texts, {"judge": faithful(texts, 1)}, groups=["p0"] * 30 + [f"q{k}" for k in range(30)])
    (note,) = alignment(lonely, lonely, [JUDGE]).notes[1:]
    assert "pleural effusion (absent: 30 and 30, present: 30 and 30)" in note, "one patient cannot be on both sides"
    same = collection(["No pleural effusion."] * 20, {"reader": points(20, D, 1)})
    section = alignment(same, same, [READER])
    assert not rows(section, "image-text similarity, reports of others")
    assert any("reports of one meaning" in note for note in section.notes)
    with pytest.raises(ValueError, match="no judge features"):
        alignment(same, same, [READER, JUDGE])
    with pytest.raises(ValueError, match="no extractor was given"):
        alignment(same, same, [])


def test_nothing_of_the_reports_is_handed_on(pair: tuple[Collection, Collection]) -> None:
    section = alignment(*pair, [READER, JUDGE])
    texts = {sentence for one in pair for report in one.reports for sentence in report.split(". ")}
    for note in section.notes:
        assert not any(text in note for text in texts)
