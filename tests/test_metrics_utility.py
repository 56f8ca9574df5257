"""Utility's figures: the conditions of a minimum, closed forms, Bayes' rule, the reference libraries, and no leak."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vlgen.metrics.split import budget, grouped_split
from vlgen.metrics.utility import (
    STRENGTHS,
    at_frequencies,
    balanced_accuracy,
    expected_calibration_error,
    linear_probe,
    macro_auroc,
    mean_interval,
)


def drawn(n: int, d: int, k: int, seed: int = 0, apart: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features of k normal classes whose means are `apart` from zero in each direction, and their labels."""
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(k), torch.randint(k, (n - k,), generator=g)])
    means = apart * torch.randn(k, d, generator=torch.Generator().manual_seed(99))
    return (means[y] + torch.randn(n, d, generator=g)) * 3 + 5, y


def guesses(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(k), torch.randint(k, (n - k,), generator=g)])
    return (2 * torch.randn(n, k, generator=g) + functional.one_hot(y, k)).double().softmax(1), y


SHAPES = [(60, 8, 2), (60, 8, 4), (30, 90, 2), (30, 90, 3)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_the_probe_is_at_the_minimum(n: int, d: int, k: int, balanced: bool) -> None:
    x, y = drawn(n, d, k)
    probe = linear_probe(x, y, strength=3.0, balanced=balanced)
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    rows = len(y) / (k * torch.bincount(y).double())[y] if balanced else torch.ones(n, dtype=torch.float64)
    wrong = rows[:, None] * (functional.one_hot(y, k).double() - probe.probabilities(x))
    # of two classes the first carries no weight, so its column of the gradient is that of the second, mirrored
    free = slice(1, None) if k == 2 else slice(None)
    assert torch.allclose(z.T @ wrong[:, free], 3.0 * probe.weight[:, free], atol=n * 1e-8), "1e-9 per row was asked"
    assert torch.allclose(wrong.sum(0), torch.zeros(k, dtype=torch.float64), atol=n * 1e-8), "the bias has no penalty"


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_the_probe_is_that_of_scikit_learn(n: int, d: int, k: int, balanced: bool) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    pipeline, preprocessing = pytest.importorskip("sklearn.pipeline"), pytest.importorskip("sklearn.preprocessing")
    x, y = drawn(n, d, k)
    for strength in (0.1, 10.0):
        theirs = pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            linear_model.LogisticRegression(
                C=1 / strength, tol=1e-10, max_iter=10_000, class_weight="balanced" if balanced else None
            ),
        ).fit(x.double().numpy(), y.numpy())
        asked, _ = drawn(40, d, k, seed=1)
        expected = torch.from_numpy(theirs.predict_proba(asked.double().numpy()))
        found = linear_probe(x, y, strength=strength, balanced=balanced).probabilities(asked)
        assert torch.allclose(found, expected, atol=1e-6), "two minimizers stop at gradients of 1e-9 and 1e-10"


def test_the_probe_does_not_see_units_order_or_constants() -> None:
    x, y = drawn(50, 6, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    asked, _ = drawn(20, 6, 3, seed=2)
    expected = linear_probe(x, y, strength=1.0).probabilities(asked)
    moved = linear_probe(x[order] * 1e-3 - 40, y[order], strength=1.0).probabilities(asked * 1e-3 - 40)
    assert torch.allclose(moved, expected, atol=1e-3), "float32 features at -40 keep three digits of their spread"
    exact = linear_probe(x.double()[order] * 1e3, y[order], strength=1.0).probabilities(asked.double() * 1e3)
    assert torch.allclose(exact, expected, atol=1e-7)
    flat = [torch.cat([part, torch.full((len(part), 2), 0.1)], 1) for part in (x, asked)]
    flat[1][:, -1] = 9.0  # what was constant in learning says nothing, whatever it does later
    assert torch.allclose(linear_probe(flat[0], y, strength=1.0).probabilities(flat[1]), expected, atol=1e-7)
    whole = linear_probe(x, y, strength=1.0)
    assert torch.allclose(torch.cat([whole.probabilities(part) for part in asked.split(7)]), expected, atol=1e-14)
    assert torch.equal(
        linear_probe(x, y == 1).probabilities(asked), linear_probe(x, (y == 1).long()).probabilities(asked)
    )


def test_cross_validation_tells_signal_from_noise_and_keeps_patients_together() -> None:
    grid = [8 * strength for strength in STRENGTHS]
    x, y = drawn(120, 8, 2, apart=1.5)
    assert linear_probe(x, y).strength in grid[2:], "far apart: a weak penalty"
    noise = y[torch.randperm(120, generator=torch.Generator().manual_seed(3))]
    assert linear_probe(x, noise).strength == grid[0], "nothing to learn: the strongest"
    # features that name the patient, and a label that patients have at random: only whole patients held out show it
    patients = torch.arange(40).repeat_interleave(10)
    own = torch.randn(40, 60, generator=torch.Generator().manual_seed(4))[patients]
    named = own + 0.05 * torch.randn(400, 60, generator=torch.Generator().manual_seed(5))
    labels = (torch.randperm(40, generator=torch.Generator().manual_seed(6)) % 2)[patients]
    apart, mixed = linear_probe(named, labels, groups=patients.tolist()), linear_probe(named, labels)
    assert apart.strength >= 100 * mixed.strength
    assert linear_probe(x, y, seed=1).strength == linear_probe(x, y, seed=1).strength
    lone = torch.tensor([0] * 20 + [1])
    assert linear_probe(x[:21], lone).strength == 8 / 10, "one positive cannot be both learned and held out"


def test_cross_validation_looks_at_part_of_a_large_set() -> None:
    x, y = drawn(700, 3, 2, apart=1.5)
    found = linear_probe(x, y)
    assert found.strength in [3 * strength for strength in STRENGTHS]
    assert torch.allclose(
        found.probabilities(x), linear_probe(x, y, strength=found.strength).probabilities(x), atol=1e-12
    ), "all rows are learned from"


def test_figures_by_hand() -> None:
    y = torch.tensor([0, 0, 0, 1])
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.4, 0.6]])
    assert math.isclose(balanced_accuracy(p, y), (2 / 3 + 1) / 2)
    assert math.isclose(macro_auroc(p, y), 2 / 3)
    assert balanced_accuracy(torch.full((4, 2), 0.5), y) == 0.5 == macro_auroc(torch.full((4, 2), 0.5), y)
    order = torch.tensor([2, 0, 3, 1])
    for figure in (balanced_accuracy, macro_auroc, expected_calibration_error):
        assert math.isclose(figure(p[order], y[order]), figure(p, y), rel_tol=1e-12)


@pytest.mark.parametrize("k", [2, 5])
def test_figures_are_those_of_scikit_learn(k: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = guesses(300, k)
    p = (p * 20).round() / 20  # with ties
    p = p.clamp_min(0.01) / p.clamp_min(0.01).sum(1, keepdim=True)
    theirs = metrics.roc_auc_score(y, p[:, 1]) if k == 2 else metrics.roc_auc_score(y, p, multi_class="ovr")
    assert math.isclose(macro_auroc(p, y), theirs, rel_tol=1e-12)
    assert math.isclose(balanced_accuracy(p, y), metrics.balanced_accuracy_score(y, p.argmax(1)), rel_tol=1e-12)


def test_calibration_of_known_classifiers() -> None:
    g = torch.Generator().manual_seed(0)
    n = 100_000
    positive = torch.rand(n, generator=g).double()
    y = (torch.rand(n, generator=g) < positive).long()
    honest = torch.stack([1 - positive, positive], 1)
    # each of 8 occupied bins holds n / 8 rows and errs by at most sqrt(0.25 / (n / 8)), on average 0.8 of that
    assert expected_calibration_error(honest, y) < math.sqrt(2 / n)
    sharp = at_frequencies(honest.square() / honest.square().sum(1, keepdim=True), torch.ones(2))
    # the mean of |p^2 / (p^2 + (1 - p)^2) - p| over p uniform in [1/2, 1]; the difference has one sign
    grid = torch.linspace(0.5, 1, 100_001).double()
    closed = float((grid**2 / (grid**2 + (1 - grid) ** 2) - grid).mean())
    assert math.isclose(expected_calibration_error(sharp, y), closed, abs_tol=math.sqrt(2 / n)), "all bins err one way"
    assert closed > 10 * math.sqrt(2 / n), "the test has power"


def test_calibration_of_one_confidence_is_the_difference() -> None:
    for confidence, right in ((0.99, 60), (0.55, 90), (0.75, 75)):
        p = torch.tensor([[1 - confidence, confidence]], dtype=torch.float64).expand(100, 2)
        y = torch.tensor([1] * right + [0] * (100 - right))
        expected = abs(confidence - right / 100)
        assert math.isclose(expected_calibration_error(p, y), expected, abs_tol=1e-12)
        assert math.isclose(expected_calibration_error(p, y, bins=1), expected, abs_tol=1e-12)


def test_calibration_by_definition() -> None:
    p, y = guesses(200, 3)
    confidence, answer = p.max(1)
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if bool(inside.any()):
            gap = (answer == y)[inside].double().mean() - confidence[inside].mean()
            expected += float(inside.double().mean()) * abs(float(gap))
    assert math.isclose(expected_calibration_error(p, y), expected, rel_tol=1e-12)


def test_an_edge_belongs_to_the_bin_below() -> None:
    confidence = torch.tensor([0.75, 0.75, 0.625, 0.625], dtype=torch.float64)
    p, y = torch.stack([1 - confidence, confidence], 1), torch.tensor([1, 1, 1, 0])
    together = (2 * 0.25 - 2 * 0.125) / 4  # in (1/2, 3/4] one lies above and one below, and they cancel in part
    assert expected_calibration_error(p, y, bins=4) == together
    assert expected_calibration_error(p, y, bins=8) == (2 * 0.25 + 2 * 0.125) / 4, "(5/8, 3/4] and (1/2, 5/8]"
    assert expected_calibration_error(torch.eye(2)[y], y) == 0, "confidence 1 has a bin"


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_is_that_of_torchmetrics(bins: int) -> None:
    functions = pytest.importorskip("torchmetrics.functional.classification")
    p, y = guesses(300, 4)
    theirs = functions.multiclass_calibration_error(p, y, num_classes=4, n_bins=bins, norm="l1")
    assert math.isclose(expected_calibration_error(p, y, bins=bins), float(theirs), rel_tol=1e-6), (
        "theirs is in float32"
    )


def test_frequencies_by_bayes_rule() -> None:
    x = torch.linspace(-3, 3, 50).double()
    likelihood = torch.stack([torch.exp(-((x - mean) ** 2) / 2) for mean in (-1.0, 0.5, 2.0)], 1)
    prior = torch.tensor([0.7, 0.2, 0.1]).double()
    even, moved = (joint / joint.sum(1, keepdim=True) for joint in (likelihood, likelihood * prior))
    assert torch.allclose(at_frequencies(even, 50 * prior), moved, atol=1e-14)
    assert torch.allclose(at_frequencies(even, torch.ones(3)), even, atol=1e-15)
    for wrong in (torch.ones(2), torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match="K positive numbers"):
            at_frequencies(even, wrong)


def test_interval_of_a_mean() -> None:
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert interval is not None and mean == 2
    assert math.isclose(interval[1] - mean, 4.30265 / math.sqrt(3), rel_tol=1e-5) and sum(interval) == pytest.approx(4)
    assert mean_interval([0.5]) == (0.5, None)
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 3, 5, 10, 11, 12, 30, 400):
        values = torch.randn(n, generator=torch.Generator().manual_seed(n)).double().tolist()
        _, interval = mean_interval(values)
        theirs = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        assert interval == pytest.approx(theirs, abs=1e-4)
    for wrong in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="one finite number"):
            mean_interval(wrong)


def cohort(seed: int = 0, patients: int = 60) -> tuple[Tensor, list[str]]:
    """Images of patients with 1 to 6 images each; class 1 in a third of them, class 2 in few, some patients mixed."""
    g = torch.Generator().manual_seed(seed)
    groups, labels = list[str](), list[int]()
    for number in range(patients):
        for image in range(1 + int(torch.randint(6, (), generator=g))):
            groups.append(f"p{number}")
            labels.append(2 if number % 12 == 0 and image == 0 else int(number % 3 == 0))
    return torch.tensor(labels), groups


@pytest.mark.parametrize("seed", range(5))
def test_a_split_parts_no_patient_and_holds_every_class(seed: int) -> None:
    y, groups = cohort()
    learned, tested = grouped_split(y, groups, share=0.3, seed=seed)
    assert sorted([*learned.tolist(), *tested.tolist()]) == list(range(len(y)))
    assert not {groups[row] for row in learned} & {groups[row] for row in tested}
    for rows in (learned, tested):
        assert set(y[rows].tolist()) == {0, 1, 2} and rows.tolist() == sorted(rows.tolist())
    for one in (0, 1):
        assert abs(float((y[tested] == one).sum()) / float((y == one).sum()) - 0.3) < 0.1, "two patients of six images"
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    _, again = grouped_split(y[order], [groups[row] for row in order], share=0.3, seed=seed)
    assert sorted(order[again].tolist()) == tested.tolist(), "whatever the order of rows"
    assert not torch.equal(grouped_split(y, groups, share=0.3, seed=seed + 50)[1], tested)


def test_a_split_by_single_images_is_exact() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 9)
    _, tested = grouped_split(y, list(range(99)))
    assert Counter(y[tested].tolist()) == {0: 20, 1: 10, 2: 3}
    _, most = grouped_split(y, list(range(99)), share=0.999)
    assert Counter(y[most].tolist()) == {0: 59, 1: 29, 2: 8}, "one of each is left to learn from"
    with pytest.raises(ValueError, match="class 1 has 5 images of too few patients"):
        grouped_split(torch.tensor([0] * 9 + [1] * 5), [*range(9), *["p"] * 5])
    with pytest.raises(ValueError, match="share is 1"):
        grouped_split(y, list(range(99)), share=1)


def test_leaking_patients_would_look_perfect() -> None:
    patients = torch.arange(60).repeat_interleave(8)
    own = torch.randn(60, 100, generator=torch.Generator().manual_seed(1))[patients]
    x = own + 0.1 * torch.randn(480, 100, generator=torch.Generator().manual_seed(2))
    y = (torch.randperm(60, generator=torch.Generator().manual_seed(3)) % 2)[patients]

    def area(groups: list[int]) -> float:
        learned, tested = grouped_split(y, groups)
        return macro_auroc(linear_probe(x[learned], y[learned], strength=10.0).probabilities(x[tested]), y[tested])

    assert area(list(range(480))) > 0.99, "images split one by one: the patient is recognized"
    assert 0.2 < area(patients.tolist()) < 0.8, "20 patients are tested: chance is 0.5, its deviation about 0.13"


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_follows_the_frequencies_in_whole_patients(seed: int) -> None:
    y, groups = cohort()
    have = torch.bincount(y).tolist()
    before: set[int] = set()
    for n in (3, 10, 40, 100, len(y)):
        rows = budget(y, groups, n, seed=seed).tolist()
        assert len(set(rows)) == n and rows == sorted(rows)
        for one, count in enumerate(torch.bincount(y[rows]).tolist()):
            assert count >= 1 and abs(count - n * have[one] / len(y)) < 2, "one by rounding, one that each class has"
        assert before <= set(rows), "a larger budget keeps the labels of a smaller one"
        before = set(rows)
        chosen = Counter(groups[row] for row in rows)
        broken = [name for name, count in chosen.items() if count < groups.count(name)]
        mixed = {name for name in chosen if len({int(y[row]) for row, own in enumerate(groups) if own == name}) > 1}
        assert len(set(broken) - mixed) <= 3, "each class breaks one patient at most"
    assert budget(y, groups, 40, seed=seed).tolist() == budget(y, groups, 40, seed=seed).tolist()
    assert budget(y, groups, 40, seed=seed).tolist() != budget(y, groups, 40, seed=seed + 9).tolist()
    for n in (2, len(y) + 1):
        with pytest.raises(ValueError, match=f"a budget of {n} from {len(y)} images of 3 classes: give 3 to {len(y)}"):
            budget(y, groups, n)


def test_refusals() -> None:
    x, y = drawn(20, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = linear_probe(x, y, classes=2)
    with pytest.raises(ValueError, match="2 of 3 classes"):
        linear_probe(x, y, classes=3)
    with pytest.raises(ValueError, match="4 features, the probe learned from 3"):
        probe.probabilities(torch.zeros(2, 4))
    for labels, answer in (
        (y[:-1], "20 rows and labels 19"),
        (y.double(), "bool or whole numbers"),
        (y * 0, "each at least once"),
        (y * 2, "each at least once"),
        (y - 1, "each at least once"),
    ):
        with pytest.raises(ValueError, match=answer):
            linear_probe(x, labels)
    for options, answer in (
        ({"strength": 0.0}, "strength is 0"),
        ({"strength": math.nan}, "strength is nan"),
        ({"folds": 1}, "folds is 1"),
        ({"groups": ["a"]}, "1 entries for 20"),
    ):
        with pytest.raises(ValueError, match=answer):
            linear_probe(x, y, **options)
    with pytest.raises(ValueError, match="not finite"):
        linear_probe(x.index_fill(0, torch.tensor([1]), math.nan), y)
    p = probe.probabilities(x)
    for wrong in (p[:-1], 2 * p, p[:, :1], p - 1, p * math.nan):
        with pytest.raises(ValueError, match=r"give \(20, 2\), rows of sum 1"):
            macro_auroc(wrong, y)
    with pytest.raises(ValueError, match="each at least once"):
        balanced_accuracy(p, torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match="bins is 0"):
        expected_calibration_error(p, y, bins=0)
