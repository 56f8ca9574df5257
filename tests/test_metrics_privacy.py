"""Privacy: exact neighbors, an honest ratio, planted copies that are found, and attacks of known power."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlgen.metrics import privacy
from vlgen.metrics.privacy import copies, copy_threshold, membership, nearest, nn_ratio


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def normal_loss(n: int, seed: int, mean: float = 0.0) -> Tensor:
    return normal(n, 1, seed)[:, 0] + mean


def test_nearest_by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(40, 7, 1), normal(30, 7, 2)
    every = (a.double()[:, None] - b.double()).square().sum(2).sqrt()
    distance, index = nearest(a, b)
    assert torch.equal(index, every.argmin(1))
    assert torch.allclose(distance, every.amin(1), rtol=1e-12), "float64"
    monkeypatch.setattr(privacy, "chunks", lambda n, m: (slice(i, i + 7) for i in range(0, n, 7)))
    assert torch.equal(nearest(a, b)[1], index) and torch.allclose(nearest(a, b)[0], distance, rtol=1e-14)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(order[nearest(a, b[order])[1]], index)


def test_an_exact_copy_is_at_distance_zero_wherever_the_features_lie() -> None:
    train = 1000 + normal(50, 64, 1)
    distance, index = nearest(train[[3, 9]], train)
    assert distance.tolist() == [0, 0] and index.tolist() == [3, 9]
    assert math.isclose(float(nearest(train[:1] + 0.5, train)[0][0]), 0.5 * 8, rel_tol=1e-6), "|0.5| in 64 dimensions"
    far = 1e6 + normal(40, 64, 1).double()
    far[20:] = far[:20] + 1e-3  # a product of norms of 6e13 would lose these differences to rounding
    assert torch.equal(nearest(far + 1e-4, far)[1], torch.arange(40))


def test_ratio_of_an_honest_and_of_a_memorizing_generator() -> None:
    train, held_out, fake = normal(300, 6, 1), normal(300, 6, 2), normal(300, 6, 3)
    honest = nn_ratio(fake, train, held_out)
    # log ratios are symmetric about 0, so their mean over independent images is within three standard errors
    log = honest.log()
    assert abs(float(log.mean())) < 3 * float(log.std()) / math.sqrt(300)
    memorized = nn_ratio(train[:200] + 0.01 * normal(200, 6, 4), train, held_out)
    assert float(memorized.quantile(0.99)) < 0.3 < float(honest.quantile(0.01)) < 1 < float(honest.quantile(0.99))
    assert torch.allclose(nn_ratio(fake, held_out, train), 1 / honest)


def test_ratio_compares_sets_of_equal_size() -> None:
    large, held_out, fake = normal(3000, 6, 1), normal(150, 6, 2), normal(300, 6, 3)
    equal = nn_ratio(fake, large, held_out).log()
    # the held-out set is shared by all images, so its own scatter comes beside theirs: half of the size-only shift
    shift = math.log(3000 / 150) / 6
    assert abs(float(equal.mean())) < 0.25 * shift
    unequal = (nearest(fake, large)[0] / nearest(fake, held_out)[0]).log()
    assert float(unequal.mean()) < -0.75 * shift, "n^(-1/d): what cutting to equal size prevents"
    assert torch.equal(nn_ratio(fake, large, held_out).log(), equal)
    assert not torch.equal(nn_ratio(fake, large, held_out, seed=1).log(), equal)


def test_ratio_at_distance_zero() -> None:
    train, held_out = torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [2.0]])
    ratio = nn_ratio(torch.tensor([[0.0], [4.0], [2.0], [3.0]]), train, held_out)
    assert ratio.tolist() == [1, 0, math.inf, 1]


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_planted_copies_are_found_at_the_promised_false_alarms(rate: float) -> None:
    alarms, recalls = [], []
    for i in range(20):
        train, held_out, unseen = normal(150, 12, 3 * i), normal(199, 12, 3 * i + 1), normal(200, 12, 3 * i + 2)
        threshold = copy_threshold(train, held_out, rate)
        assert int(copies(held_out, train, threshold).sum()) <= rate * len(held_out)
        planted = train[torch.randperm(150, generator=torch.Generator().manual_seed(i))[:40]]
        fake = torch.cat([unseen, planted + 0.1 * normal(40, 12, 90 + i)])  # 10 % of the features' own spread
        flagged = copies(fake, train, threshold)
        alarms.append(float(flagged[:200].double().mean()))
        recalls.append(float(flagged[200:].double().mean()))
    assert min(recalls) >= 0.95
    rates = torch.tensor(alarms)
    assert abs(float(rates.mean()) - rate) < 3 * float(rates.std()) / math.sqrt(20), (
        "k / (n + 1), exactly the rate here"
    )


def test_threshold_is_an_order_statistic() -> None:
    train, held_out = torch.zeros(1, 1), torch.arange(1.0, 100.0)[:, None]  # 99 distances: 1, 2, ... 99
    assert copy_threshold(train, held_out) == 1.0
    assert copy_threshold(train, held_out, 0.05) == 5.0
    assert copy_threshold(train, held_out, 0.29) == 29.0, "0.29 * 100 is a little below 29 in floating point"
    assert int(copies(held_out, train, 5.0).sum()) == 4
    with pytest.raises(
        ValueError, match=r"has 98 images: a threshold at a false-alarm rate of 0\.01 needs at least 99"
    ):
        copy_threshold(train, held_out[:98])
    with pytest.raises(ValueError, match="at least 19"):
        copy_threshold(train, held_out[:18], 0.05)
    with pytest.raises(ValueError, match="at least 1 of 99 held-out images equal a training image"):
        copy_threshold(held_out[5:6], held_out)


def test_membership_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with the eval extra")
    members, others = normal_loss(150, 1, -1.0), normal_loss(230, 2)
    members[:20] = others[:20]  # ties
    found = membership(members, others, draws=100)
    labels = torch.cat([torch.ones(150), torch.zeros(230)])
    scores = -torch.cat([members, others])
    assert math.isclose(found.auc, metrics.roc_auc_score(labels, scores), rel_tol=1e-12)
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert math.isclose(found.tpr, tpr[fpr <= 0.01].max(), rel_tol=1e-12)
    assert found.fpr == 0.01
    for value, (low, high) in ((found.auc, found.auc_interval), (found.tpr, found.tpr_interval)):
        assert low <= value <= high and high > low
    assert membership(members, others, draws=100) == found
    assert membership(members.flip(0), others.flip(0), draws=100)[::2][:2] == (found.auc, found.tpr)


def test_membership_of_known_power() -> None:
    same = [membership(normal_loss(200, 2 * i), normal_loss(200, 2 * i + 1), draws=40) for i in range(40)]
    auc = torch.tensor([x.auc for x in same])
    assert abs(float(auc.mean()) - 0.5) < 3 * float(auc.std()) / math.sqrt(40)
    assert sum(x.auc_interval[0] <= 0.5 <= x.auc_interval[1] for x in same) >= 32, "95 % nominal, of 40; 40 draws"
    tpr = torch.tensor([x.tpr for x in same])
    # the third smallest of 200 accuses 3 / 201 of a new sample of the same distribution
    assert abs(float(tpr.mean()) - 3 / 201) < 3 * float(tpr.std()) / math.sqrt(40)
    shifted = membership(normal_loss(4000, 1, -2.0), normal_loss(4000, 2), draws=40)
    closed = 0.5 * (1 + math.erf(2 / math.sqrt(2) / math.sqrt(2)))  # P(N(-2, 1) < N(0, 1)) = Phi(2 / sqrt 2)
    assert math.isclose(shifted.auc, closed, abs_tol=0.01), "three standard errors at n = 4000"
    closed = 0.5 * (1 + math.erf((2 - 2.3263) / math.sqrt(2)))  # Phi(2 + the 1 % quantile)
    assert math.isclose(shifted.tpr, closed, abs_tol=0.08), "the 1 % quantile of 4000 is known to 0.06"
    assert shifted.auc_interval[0] > 0.9 and shifted.tpr_interval[1] - shifted.tpr_interval[0] < 0.2
    perfect = membership(normal_loss(10, 1, -50.0), normal_loss(100, 2), draws=40)
    assert perfect.auc == perfect.tpr == 1
    assert membership(torch.ones(50), torch.ones(100), draws=40)[::2][:2] == (0.5, 0), "all tied: nobody is accused"


def test_what_does_not_fit_is_refused() -> None:
    x = normal(20, 3)
    for function in (nearest, copy_threshold, lambda a, b: nn_ratio(a, b, a), lambda a, b: copies(a, b, 1.0)):
        with pytest.raises(ValueError, match=r"\[2, 3\] features"):
            function(x, x[:, :2])
        with pytest.raises(ValueError, match="at least 1 are needed"):
            function(x, x[:0])
        with pytest.raises(ValueError, match="not finite"):
            function(x, x.index_fill(1, torch.tensor([1]), math.inf))
    for threshold in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            copies(x, x, threshold)
    for rate in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="rate is"):
            copy_threshold(x, x, rate)
        with pytest.raises(ValueError, match="fpr is"):
            membership(torch.ones(10), torch.ones(200), rate)
    with pytest.raises(ValueError, match="losses_non has 99 images: at least 100 are needed"):
        membership(torch.ones(10), torch.ones(99))
    with pytest.raises(ValueError, match="losses_members has 1 images: at least 2"):
        membership(torch.ones(1), torch.ones(100))
    for wrong in (torch.ones(10, 1), torch.ones(10).long(), torch.full((10,), math.nan)):
        with pytest.raises(ValueError, match="finite losses, one per image"):
            membership(wrong, torch.ones(100))
