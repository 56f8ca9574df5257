"""Alignment: retrieval by definition, ties against the encoder, and AUROC against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlgen.metrics import alignment
from vlgen.metrics.alignment import auroc, preference, retrieval, similarity


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_cosine_of_each_pair() -> None:
    a, b = normal(12, 5, 1), normal(12, 5, 2)
    expected = torch.nn.functional.cosine_similarity(a.double(), b.double())
    assert torch.allclose(similarity(a, b), expected, rtol=1e-12)
    assert torch.allclose(similarity(3 * a, b), similarity(a, b), rtol=1e-6), "3 a is rounded to float32"
    assert torch.allclose(similarity(a, -2 * a), -torch.ones(12, dtype=torch.float64))


def by_definition(queries: Tensor, answers: Tensor, k: int, groups: list) -> float:
    """Recall at k, one query at a time: fewer than k wrong answers are as near as the nearest right one."""
    hits = 0
    for i, query in enumerate(queries):
        score = [float(torch.nn.functional.cosine_similarity(query, answer, dim=0)) for answer in answers]
        best = max(s for s, g in zip(score, groups, strict=True) if g == groups[i])
        hits += sum(s >= best for s, g in zip(score, groups, strict=True) if g != groups[i]) < k
    return hits / len(queries)


@pytest.mark.parametrize("groups", [None, [i // 3 for i in range(30)], ["normal"] * 10 + list("abcdefghijklmnopqrst")])
def test_retrieval_by_definition(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    image = normal(30, 6, 1).double()
    text = image + 1.2 * normal(30, 6, 2).double()
    found = retrieval(image, text, groups=groups)
    for k in (1, 5, 10):
        named = groups or list(range(30))
        assert found.image_to_text[k] == by_definition(image, text, k, named)
        assert found.text_to_image[k] == by_definition(text, image, k, named)
    assert 0 < found.image_to_text[1] < found.image_to_text[10] <= 1, "the test has power"
    assert found.image_to_text != found.text_to_image, "and tells the two directions apart"
    swapped = retrieval(text, image, groups=groups)
    assert (swapped.text_to_image, swapped.image_to_text) == found
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    mixed = groups and [groups[i] for i in order]
    assert retrieval(image[order], 7 * text[order], groups=mixed) == found, "by cosine, in any order of the pairs"
    monkeypatch.setattr(alignment, "chunks", lambda n, m: (slice(i, i + 7) for i in range(0, n, 7)))
    assert retrieval(image, text, groups=groups) == found, "in blocks of seven rows"


def test_ties_count_against_the_encoder() -> None:
    image = normal(12, 4, 1)
    assert retrieval(image, image).image_to_text == {1: 1, 5: 1, 10: 1}
    collapsed = retrieval(image, torch.ones(12, 4))
    assert collapsed.image_to_text == {1: 0, 5: 0, 10: 0}, "all texts alike"
    assert collapsed.text_to_image[1] == 1 / 12, "every text finds the same image"
    twice = image.clone()
    twice[1] = twice[0]  # a report that repeats word for word
    assert retrieval(image, twice, (1, 2)).image_to_text[1] == 10 / 12
    repeated = retrieval(image, twice, (1,), groups=["same", "same", *range(10)])
    assert repeated.image_to_text[1] == repeated.text_to_image[1] == 1
    numbers = torch.tensor([0, 0, *range(1, 11)])
    assert retrieval(image, twice, (1,), groups=numbers) == repeated, "a tensor's values, not its elements' identity"


def test_retrieval_of_unrelated_features_is_chance() -> None:
    found = torch.tensor(
        [list(retrieval(normal(40, 16, 2 * i), normal(40, 16, 2 * i + 1))[0].values()) for i in range(50)]
    )
    error = found.std(0) / math.sqrt(50)
    assert bool(((found.mean(0) - torch.tensor([1, 5, 10]) / 40).abs() < 3 * error).all())


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_auroc_equals_sklearn(seed: int, levels: int, n: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with the eval extra")
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (n,), generator=g).float() / 3  # few levels, so many ties
    labels = torch.randint(0, 2, (n,), generator=g)
    labels[:2] = torch.tensor([0, 1])
    theirs = metrics.roc_auc_score(labels, scores)
    assert math.isclose(auroc(scores, labels), theirs, rel_tol=1e-12)
    assert math.isclose(auroc(scores, labels.bool()), theirs, rel_tol=1e-12)
    assert math.isclose(auroc(-scores, labels), 1 - theirs, abs_tol=1e-12)
    assert auroc(scores.exp(), labels) == auroc(scores, labels), "only the order counts"


def test_auroc_by_hand() -> None:
    assert auroc(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 1, 1])) == 1
    assert auroc(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 0, 0, 1])) == 0.5
    assert auroc(torch.zeros(5), torch.tensor([1, 0, 0, 0, 1])) == 0.5, "ties count one half"
    assert auroc(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 1])) == 0.75


def test_preference_by_hand() -> None:
    right, wrong = torch.tensor([0.9, 0.2, 0.5, 0.5]), torch.tensor([0.1, 0.4, 0.5, 0.4])
    assert preference(right, wrong) == 2.5 / 4
    assert preference(wrong, right) == 1.5 / 4
    assert preference(right, right) == 0.5, "an encoder that ignores the word is at chance"


def test_what_does_not_fit_is_refused() -> None:
    x = normal(20, 3)
    for function in (similarity, retrieval):
        with pytest.raises(ValueError, match="20 images and 19 texts"):
            function(x, x[:19])
        with pytest.raises(ValueError, match=r"\[2, 3\] features"):
            function(x, x[:, :2])
        with pytest.raises(ValueError, match="text has 1 of 20 rows that are not finite"):
            function(x, x.index_fill(0, torch.tensor([3]), math.nan))
        with pytest.raises(ValueError, match="text has 1 rows of zeros"):
            function(x, x.index_fill(0, torch.tensor([3]), 0.0))
    with pytest.raises(ValueError, match="image has 10 rows: recall at 10 needs at least 11"):
        retrieval(x[:10], x[:10])
    for ks in ((), (0, 1)):
        with pytest.raises(ValueError, match="ranks of at least 1"):
            retrieval(x, x, ks)
    with pytest.raises(ValueError, match="groups has 3 entries for 20 pairs"):
        retrieval(x, x, groups=[0, 1, 2])
    scores = torch.arange(4.0)
    with pytest.raises(ValueError, match="2 positives among 2"):
        auroc(scores[:2], torch.ones(2))
    with pytest.raises(ValueError, match="0 positives among 2"):
        auroc(scores[:2], torch.zeros(2))
    with pytest.raises(ValueError, match="other than 0 and 1"):
        auroc(scores, torch.tensor([0, 1, -1, 1]))
    with pytest.raises(ValueError, match=r"\(N,\) and \(N,\)"):
        auroc(scores, torch.ones(3))
    with pytest.raises(ValueError, match="scores has 1 values that are not finite"):
        auroc(scores.index_fill(0, torch.tensor([0]), math.nan), torch.tensor([0, 1, 0, 1]))
    for right, wrong in ((scores, scores[:3]), (scores[:0], scores[:0]), (scores[None], scores[None])):
        with pytest.raises(ValueError, match="two of one shape"):
            preference(right, wrong)
    with pytest.raises(ValueError, match="wrong has 1 values that are not finite"):
        preference(scores, scores.index_fill(0, torch.tensor([0]), math.inf))
