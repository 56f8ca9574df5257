"""Utility: exact chance, exact gain, no leaking patients, the choice of the problem, and a network that sees pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from vlgen.evaluate import small_cnn
from vlgen.evaluate.collection import Collection
from vlgen.evaluate.problem import Problem, problem_of
from vlgen.evaluate.scores import Row, Section
from vlgen.evaluate.utility import utility
from vlgen.metrics.utility import linear_probe
from vlgen.sheet import picture

EFFUSION = "pleural effusion"


def collection(
    root: Path,
    findings: Sequence[Mapping[str, bool]] = (),
    *,
    traits: Sequence[Mapping[str, str]] = (),
    x: Tensor | None = None,
    pictures: Tensor | None = None,
    groups: Sequence[str] = (),
    modalities: Sequence[str] = (),
    digests: Sequence[str] = (),
) -> Collection:
    """Images that all have one grey picture, or their own, with these facts and features."""
    n = len(findings) or len(traits)
    root.mkdir(exist_ok=True)
    files = [root / f"{number}.png" for number in range(n if pictures is not None else 1)]
    for number, file in enumerate(files):
        x_own = torch.full((16, 16), 0.5) if pictures is None else pictures[number]
        picture(x_own, 8).save(file)
    return Collection(
        root,
        tuple(files) if pictures is not None else tuple(files * n),
        reports=("",) * n,
        groups=tuple(groups) or tuple(f"patient-{number}" for number in range(n)),
        modalities=tuple(modalities) or ("cxr",) * n,
        findings=tuple(findings) or ({},) * n,
        traits=tuple(traits) or ({},) * n,
        digests=tuple(digests),
        features={"plain": torch.zeros(n, 2) if x is None else x},
    )


def effusion(labels: Tensor) -> list[dict[str, bool]]:
    return [{EFFUSION: bool(label)} for label in labels]


def drawn(n: int, d: int, seed: int, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Labels of both kinds, and features that tell them along the first direction only."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, d, generator=g)
    x[:, 0] += apart * (2 * y - 1)
    return x, y


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of a thin network, where only the probe is looked at."""
    monkeypatch.setattr(small_cnn, "learn", partial(small_cnn.learn, steps=2, width=8))


@pytest.fixture
def quick(thin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a probe whose strength is not looked for."""
    monkeypatch.setattr(import_module("vlgen.evaluate.utility"), "linear_probe", partial(linear_probe, strength=10.0))


def of(section: Section, metric: str, group: str, features: str = "plain") -> Row:
    (row,) = [r for r in section.rows if (r.metric, r.group, r.features) == (metric, group, features)]
    return row


@pytest.mark.usefixtures("quick")
def test_contradictory_synthetic_labels_are_exactly_chance(tmp_path: Path) -> None:
    y = (torch.arange(120) % 4 == 0).long()
    x = torch.randn(120, 10, generator=torch.Generator().manual_seed(0))
    x[:, 0] += 4 * y
    other = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    real = collection(tmp_path / "real", effusion(y), x=x)
    told = torch.tensor([0, 0, 1]).repeat(20)
    synthetic = collection(tmp_path / "synthetic", effusion(told), x=other.repeat_interleave(3, 0))
    section = utility(real, synthetic, features="plain", budgets=(), seeds=2, size=16)
    for metric in ("AUROC", "balanced accuracy"):
        row = of(section, metric, "synthetic")
        assert row.value == pytest.approx(0.5, abs=1e-12), "both labels of an image weigh the same: every weight is 0"
        assert row.reference == of(section, metric, "real all").value and row.against == "all real, alone"
    assert of(section, "AUROC", "real all").value > 0.95, "the normal overlap at distance 4 allows 0.998"
    # one half each becomes 3/4 and 1/4, the frequencies of the real images; and 3/4 of the tested are absent
    assert of(section, "expected calibration error", "synthetic").value == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("quick")
def test_good_synthetic_images_help_most_where_labels_are_few(tmp_path: Path) -> None:
    x, y = drawn(240, 20, 0)
    other, labels = drawn(400, 20, 1)
    real = collection(tmp_path / "real", effusion(y), x=x)
    synthetic = collection(tmp_path / "synthetic", effusion(labels), x=other)
    section = utility(real, synthetic, features="plain", budgets=(10, 100, 1000), seeds=4, size=16)
    few, many = (of(section, "AUROC gained", f"both {n}") for n in (10, 100))
    assert few.interval is not None and few.value > 0.05 and few.interval[0] > 0
    assert few.value > 2 * many.value
    assert of(section, "AUROC", "synthetic").value > of(section, "AUROC", "real 10").value
    for n in ("10", "100", "all"):
        both, alone = (of(section, "AUROC", f"{kind} {n}") for kind in ("both", "real"))
        assert of(section, "AUROC gained", f"both {n}").value == pytest.approx(both.value - alone.value)
        assert both.reference == alone.value and both.against == "real alone"
        assert alone.reference == 0.5 and alone.against == "chance"
    error = of(section, "expected calibration error", "both 10")
    assert error.better == "lower" and error.reference == of(section, "expected calibration error", "real 10").value
    assert all(row.n == 80 and row.interval and row.interval[0] <= row.value <= row.interval[1] for row in section.rows)
    assert any("Not tried" in note and note.endswith("1000.") for note in section.notes)
    assert any("120 absent, 120 present" in note and "200 absent, 200 present" in note for note in section.notes)
    probe, network = section.curves
    assert "plain" in probe.title and "small CNN" in network.title
    assert [x for x, *_ in probe.lines["both"]] == [10, 100, 160]
    assert [y for _, y, *_ in probe.lines["real"]] == [
        of(section, "AUROC", f"real {n}").value for n in ("10", "100", "all")
    ]
    assert len({point[1:] for point in probe.lines["synthetic"]}) == 1


@pytest.mark.usefixtures("quick")
def test_no_patient_is_learned_and_tested(tmp_path: Path) -> None:
    patients = torch.arange(60).repeat_interleave(6)
    own = torch.randn(60, 80, generator=torch.Generator().manual_seed(1))[patients]
    x = own + 0.05 * torch.randn(360, 80, generator=torch.Generator().manual_seed(2))
    y = (torch.randperm(60, generator=torch.Generator().manual_seed(3)) % 2)[patients]
    synthetic = collection(tmp_path / "synthetic", effusion(torch.arange(20) % 2), x=torch.zeros(20, 80))

    def area(groups: Sequence[str]) -> float:
        real = collection(tmp_path / "real", effusion(y), x=x, groups=groups)
        return of(utility(real, synthetic, features="plain", budgets=(), seeds=4, size=16), "AUROC", "real all").value

    assert area([f"patient-{number}" for number in range(360)]) > 0.98, "as it would be with patients on both sides"
    assert 0.3 < area([f"patient-{number}" for number in patients]) < 0.7, (
        "20 patients a seed: 0.5 with a deviation of 0.13, half of it over four seeds"
    )


def test_the_network_learns_from_pixels_and_tells_good_from_bad_synthetic_images(tmp_path: Path) -> None:
    def side(n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Noise, with a faint brighter patch on the right where the finding is present, on the left where not."""
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % 2
        x = 0.5 + 0.1 * torch.randn(n, 32, 32, generator=g)
        for image, label in zip(x, y.tolist(), strict=True):
            image[8:20, 18 * label + 2 : 18 * label + 12] += 0.2
        return x.clamp(0, 1), y

    real, y = side(90, 0)
    good, labels = side(60, 1)
    collections = [
        collection(tmp_path / "real", effusion(y), pictures=real),
        collection(tmp_path / "synthetic", effusion(labels), pictures=good),
        collection(tmp_path / "wrong", effusion(1 - labels), pictures=good),
    ]
    learn, small_cnn.learn = small_cnn.learn, partial(small_cnn.learn, steps=60, width=8)
    try:
        right, wrong = (
            utility(collections[0], other, features="plain", budgets=(), seeds=1, size=32) for other in collections[1:]
        )
    finally:
        small_cnn.learn = learn
    assert of(right, "AUROC", "synthetic", "small CNN").value > 0.95
    assert of(wrong, "AUROC", "synthetic", "small CNN").value < 0.05, "learned as it was told"
    assert of(right, "AUROC", "real all", "small CNN").value > 0.95
    assert of(right, "AUROC", "real all", "small CNN").interval is None, "one seed has no spread"
    assert of(right, "AUROC", "real all").value == 0.5, "the features are zeros"


def test_the_network_is_the_same_for_a_seed_and_leaves_the_global_state() -> None:
    x, y = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    state = torch.random.get_rng_state()
    learn = partial(small_cnn.learn, x, y, classes=3, steps=4, width=8)
    first, again, other = (small_cnn.probabilities(learn(seed=seed), x) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
    assert torch.allclose(first.sum(1), torch.ones(20, dtype=torch.float64))
    network = learn(seed=1)
    alone = torch.cat([small_cnn.probabilities(network, part) for part in x.split(3)])
    assert torch.allclose(alone, first, atol=1e-5), "float32: another batch, another order of sums"
    start = small_cnn.probabilities(learn(seed=1, steps=0), x)
    assert torch.equal(start, torch.full((20, 3), 1 / 3, dtype=torch.float64)), "it starts by saying nothing"
    for labels, classes in ((y[:-1], 3), (y, 4), (y * 0, 3)):
        with pytest.raises(ValueError, match="at least one picture of each"):
            small_cnn.learn(x, labels, classes=classes, seed=0, steps=1)


def test_classes_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        small_cnn.functional,
        "cross_entropy",
        lambda logits, y: seen.append(y) or torch.nn.functional.nll_loss(logits.log_softmax(1), y),
    )
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 7)
    small_cnn.learn(torch.rand(60, 1, 8, 8), y, classes=3, seed=0, steps=6, width=8)
    assert torch.bincount(torch.cat(seen)).tolist() == [64, 64, 64]


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_figures_and_progress_reaches_the_end(tmp_path: Path) -> None:
    x, y = drawn(60, 4, 0)
    other, labels = drawn(30, 4, 1)
    real = collection(tmp_path / "real", effusion(y), x=x)
    synthetic = collection(tmp_path / "synthetic", effusion(labels), x=other)
    said: dict[str, list[tuple[int, int]]] = {}
    run = partial(utility, real, synthetic, features="plain", budgets=(10,), seeds=2, size=16)
    first = run(progress=lambda what, done, total: said.setdefault(what, []).append((done, total)))
    assert first == run() and first.rows != run(seed=1).rows
    for steps in said.values():
        total = steps[0][1]
        assert steps == [(done, total) for done in range(total + 1)]
    assert said["training classifiers"][-1] == (20, 20), "2 seeds, 2 classifiers, synthetic and 2 x (real, both)"
    assert said["pictures of 16 pixels"][-1] == (90, 90)
    text = " ".join([*first.notes, *(f"{row}" for row in first.rows)])
    assert "patient-" not in text and str(tmp_path) not in text
    assert any("patient of its own" in note for note in first.notes)


def counts(problem: Problem | str) -> tuple[str, tuple[str, ...], list[int], list[int]]:
    assert isinstance(problem, Problem)
    tally = [torch.bincount(labels).tolist() for labels in problem.labels]
    return problem.name, problem.classes, tally[0], tally[1]


def test_the_problem_with_the_most_labels_of_its_rarest_answer(tmp_path: Path) -> None:
    half = torch.arange(100) % 2
    stated = [{EFFUSION: bool(e), "nodule": number < 20, "mass": number < 9} for number, e in enumerate(half)]
    views = [{"view": "AP" if number % 2 else "PA"} for number in range(100)]
    one = collection(tmp_path / "a", stated, traits=views)
    choose = problem_of
    assert counts(choose(one, one, label=None)) == (EFFUSION, ("absent", "present"), [50, 50], [50, 50])
    assert counts(choose(one, one, label="nodule")) == ("nodule", ("absent", "present"), [80, 20], [80, 20])
    assert counts(choose(one, one, label="view"))[:2] == ("view", ("AP", "PA"))
    bare = collection(tmp_path / "b", traits=views)
    assert counts(choose(bare, bare, label=None))[0] == "view", "a trait, where there is no finding"
    rare = collection(tmp_path / "c", [{"mass": number < 9} for number in range(100)], traits=views)
    assert counts(choose(rare, rare, label=None))[0] == "view", "a finding of too few images is none"
    thin = one.subset(range(0, 100, 2))  # no effusion at all
    assert counts(problem_of(one, thin, None))[0] == "nodule", "the smaller set counts"


def test_several_classes_and_modalities(tmp_path: Path) -> None:
    names = ["glioma", "meningioma", "none", "pituitary tumor"]
    kinds = [{"class": names[number % 4]} for number in range(80)]
    kinds[0] = {"class": "abscess"}
    one = collection(tmp_path / "a", traits=kinds, modalities=["mri"] * 80)
    found = problem_of(one, one, None)
    assert counts(found) == ("class", tuple(names), [19, 20, 20, 20], [19, 20, 20, 20]), "the lone abscess is left out"
    assert isinstance(found, Problem) and 0 not in found.rows[0]
    mixed = collection(
        tmp_path / "b",
        [{EFFUSION: number % 4 == 1} if number % 2 else {"mass": number % 4 == 0} for number in range(160)],
        modalities=["cxr" if number % 2 else "ct" for number in range(160)],
    )
    by_hand = problem_of(mixed, mixed, "modality")
    assert counts(by_hand) == ("modality", ("ct", "cxr"), [80, 80], [80, 80])
    name, _, real, _ = counts(problem_of(mixed, mixed, None))
    assert name == "ct: mass" and real == [40, 40], "a finding, within one modality"
    assert counts(problem_of(mixed, mixed, "mass"))[0] == "ct: mass"


def test_too_few_labels_are_said_in_numbers(tmp_path: Path) -> None:
    enough = collection(tmp_path / "a", effusion(torch.arange(60) % 2))
    few = collection(tmp_path / "b", effusion(torch.arange(14) % 2))
    nobody = collection(tmp_path / "c", [{}] * 60)
    together = collection(tmp_path / "d", effusion(torch.arange(60) % 2), groups=[f"p{n % 5}" for n in range(60)])
    for real, synthetic, answer in (
        (few, enough, "absent: 7 real of 7 patients, 30 synthetic; present: 7 real"),
        (enough, few, "absent: 30 real of 30 patients, 7 synthetic"),
        (together, enough, "absent: 30 real of 5 patients"),
    ):
        section = utility(real, synthetic, features="plain")
        assert section.name == "utility" and not section.rows and answer in section.notes[0]
        with pytest.raises(ValueError, match=answer.split(";")[0]):
            utility(real, synthetic, features="plain", label=EFFUSION)
    assert "two answers to one question" in utility(nobody, nobody, features="plain").notes[0]
    with pytest.raises(ValueError, match="labeled 'mass': give pleural effusion"):
        utility(enough, enough, features="plain", label="mass")
    with pytest.raises(ValueError, match="has no 'imagenet' features"):
        utility(enough, enough, features="imagenet")
    for wrong in ({"seeds": 0}, {"budgets": (25, 0)}):
        with pytest.raises(ValueError, match="at least one seed"):
            utility(enough, enough, features="plain", **wrong)


@pytest.mark.usefixtures("quick")
def test_copies_of_real_files_are_neither_learned_nor_tested(tmp_path: Path) -> None:
    x, y = drawn(62, 4, 0)
    names = [f"digest-{number}" for number in range(80)]
    real = collection(tmp_path / "real", effusion(y), x=x, digests=[*names[:60], *names[:2]])
    mixed = collection(tmp_path / "b", effusion(torch.arange(40) % 2), x=torch.zeros(40, 4), digests=names[40:])
    section = utility(real, mixed, features="plain", budgets=(), seeds=1, size=16)
    assert section.notes[-1].endswith("of other real files: 2 real and 20 synthetic ones.")
    for stated in (
        "60 real images of 60 patients (30 absent, 30 present)",
        "20 synthetic ones (10 absent, 10 present)",
    ):
        assert stated in section.notes[0]
    own = utility(real, real, features="plain", budgets=(), seeds=1, size=16)
    assert not own.rows and "0 synthetic" in own.notes[0], "the same folder twice teaches nothing"


@pytest.mark.usefixtures("thin")
def test_three_classes_in_figures(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 5, generator=g) + 3 * torch.nn.functional.one_hot(y, 5)
    kinds = [{"class": f"tumor {label}"} for label in y]
    one = collection(tmp_path / "a", traits=kinds, x=x, modalities=["mri"] * 90)
    section = utility(one, one, features="plain", budgets=(12,), seeds=2, size=16)
    row = of(section, "balanced accuracy", "real all")
    assert math.isclose(row.reference or 0, 1 / 3) and row.value > 0.8
    assert of(section, "AUROC", "both 12").value > of(section, "AUROC", "real 12").value - 0.05
    alone = [r.value for r in section.rows if r.metric == "AUROC" and r.features == "plain"]
    assert fmean(alone) > 0.9
