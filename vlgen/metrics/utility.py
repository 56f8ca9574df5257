"""How useful images are: a classifier that learned from them, how right and how calibrated it is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vlgen.metrics.alignment import auroc
from vlgen.metrics.distribution import matrices
from vlgen.metrics.split import budget, by_group, counted, strata
from vlgen.tensors import counter

# strengths that cross-validation tries, from strong to weak, over the number of features: the spread of the logits
# that each allows is then the same for every extractor
STRENGTHS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)
MOST_FOLDED = 500  # rows that cross-validation looks at; the best strength hardly moves with their number


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of features: softmax((x - mean) / scale @ weight + bias).

    mean, scale  (d,) float64    of the features that it learned from
    weight       (d, K), bias (K,); of two classes, the first has weight 0
    strength     of the L2 penalty
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    strength: float

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, K) float64 from features (N, d)."""
        (x,) = matrices(1, x=x)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"x has {x.shape[1]} features, the probe learned from {len(self.mean)}: give those")
        return ((x - self.mean) / self.scale @ self.weight + self.bias).softmax(1)


def linear_probe(
    x: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    strength: float | None = None,
    groups: Sequence[Hashable] | None = None,
    balanced: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Multinomial logistic regression on standardized features with an L2 penalty; of two classes, the binary one.

    x         (N, d)
    labels    (N,)   bool, or 0 ... K - 1, each at least once
    classes   K, where it is known: labels that lack one are refused
    strength  the penalty is strength / 2 * |weight|^2 beside the sum of the log losses: 1 / C of scikit-learn. None
              takes of d * STRENGTHS the one with the least log loss in cross-validation over folds, on at most
              500 rows; d / 10 where a class has fewer than two groups
    groups    (N,)   what must not be split apart between folds: patients; None: each row is its own
    balanced  weigh the classes equally, whatever their numbers: N / (K n_k) for a row of class k

    Full batch, LBFGS in float64 to a gradient of about 1e-9 per row. The penalized minimum is unique, so no draw
    but that of the folds has a say.
    """
    (x,) = matrices(2, x=x)
    y, k = counted(labels)
    if len(y) != len(x):
        raise ValueError(f"x has {len(x)} rows and labels {len(y)}: give one label to each row")
    if classes is not None and k != classes:
        raise ValueError(f"labels holds {k} of {classes} classes: give at least one row of each")
    if strength is not None and not 0 < strength < math.inf:
        raise ValueError(f"strength is {strength}: give a positive number, or None to choose it by cross-validation")
    y = y.to(x.device)
    weights = len(y) / (k * torch.bincount(y).double())[y] if balanced else torch.ones_like(y, dtype=torch.float64)
    if strength is None:
        strength = _choose(x, y, k, weights, list(range(len(y))) if groups is None else groups, folds, seed)
    return _fit(x, y, k, weights, (strength,), 1e-9)[0]


def balanced_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the share of their rows that are told right; the most probable class is the answer.

    probabilities  (N, K)
    labels         (N,)   bool, or 0 ... K - 1, each at least once; 1 / K is chance
    """
    p, y, k = _told(probabilities, labels)
    right = (p.argmax(1) == y).double()
    return float(torch.stack([right[y == one].mean() for one in range(k)]).mean())


def macro_auroc(probabilities: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve; of more than two classes, the mean of each one against the rest, unweighted.

    probabilities  (N, K)
    labels         (N,)   bool, or 0 ... K - 1, each at least once
    """
    p, y, k = _told(probabilities, labels)
    if k == 2:
        return auroc(p[:, 1], y == 1)
    return sum(auroc(p[:, one], y == one) for one in range(k)) / k


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """How far confidence lies from accuracy: the mean over bins of |accuracy - confidence|, weighed by their rows.

    probabilities  (N, K)
    labels         (N,)   bool, or 0 ... K - 1, each at least once
    bins           of equal width, (m / bins, (m + 1) / bins]; the confidence of a row is that of its answer

    Guo et al. 2017, arXiv:1706.04599, eq. 3. It is never below 0, so at small N noise alone keeps it above.
    """
    p, y, _ = _told(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}: give at least one")
    confidence, answer = p.max(1)
    edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
    place = torch.bucketize(confidence, edges)
    gap = p.new_zeros(bins).index_add_(0, place, (answer == y).double() - confidence)
    return float(gap.abs().sum()) / len(y)


def at_frequencies(probabilities: Tensor, frequencies: Tensor) -> Tensor:
    """What a classifier that learned from classes of equal weight says where they have these frequencies.

    probabilities  (N, K)
    frequencies    (K,)   shares or counts, positive

    Bayes' rule; Saerens et al. 2002, Neural Computation 14, eq. 2.4.
    """
    if probabilities.ndim != 2 or frequencies.shape != probabilities.shape[1:] or not bool((frequencies > 0).all()):
        raise ValueError(
            f"probabilities of {tuple(probabilities.shape)} and frequencies of {tuple(frequencies.shape)}: give (N, K) "
            "and K positive numbers"
        )
    moved = probabilities.double() * frequencies.double()
    return moved / moved.sum(1, keepdim=True)


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean of independent repetitions and its 95 % interval by Student's t; no interval of a single one."""
    n = len(values)
    if not n or not all(map(math.isfinite, values)):
        raise ValueError(f"{n} values, some of them perhaps not finite: give one finite number per repetition")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, (mean - _t(n - 1) * error, mean + _t(n - 1) * error)


def _fit(x: Tensor, y: Tensor, k: int, weights: Tensor, strengths: Sequence[float], tolerance: float) -> list[Probe]:
    """The minimum at each strength, each search starting from the one before; tolerance is that of the gradient."""
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-10 * x.abs().amax(0), scale, 1)  # a constant stays constant, rounding is not spread
    z = (x - mean) / scale
    back = None
    if len(z) < z.shape[1]:  # the minimum lies in the span of the rows: as many unknowns as rows
        back, triangle = torch.linalg.qr(z.T)
        z = triangle.T
    free = 1 if k == 2 else k
    weight = z.new_zeros(z.shape[1], free, requires_grad=True)
    bias = z.new_zeros(free, requires_grad=True)
    found = []
    for strength in strengths:
        search = torch.optim.LBFGS(
            [weight, bias],
            max_iter=2000,
            tolerance_grad=tolerance,
            tolerance_change=0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss(search: torch.optim.LBFGS = search, strength: float = strength) -> Tensor:
            search.zero_grad()
            logits = functional.pad(z @ weight + bias, (k - free, 0))
            each = functional.cross_entropy(logits, y, reduction="none")
            value = ((weights * each).sum() + strength / 2 * weight.square().sum()) / len(y)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        search.step(loss)  # type: ignore[no-untyped-call]
        whole = weight.detach() if back is None else back @ weight.detach()
        padded = functional.pad(whole, (k - free, 0)), functional.pad(bias.detach(), (k - free, 0))
        found.append(Probe(mean, scale, padded[0].clone(), padded[1].clone(), strength))
    return found


def _choose(x: Tensor, y: Tensor, k: int, weights: Tensor, groups: Sequence[Hashable], folds: int, seed: int) -> float:
    """The strength of the least log loss on rows held out by whole groups."""
    if folds < 2:
        raise ValueError(f"folds is {folds}: cross-validation needs at least 2")
    grid = [x.shape[1] * strength for strength in STRENGTHS]
    if len(y) > MOST_FOLDED:
        rows = budget(y, groups, MOST_FOLDED, seed=seed)
        x, y, weights, groups = x[rows], y[rows], weights[rows], [groups[row] for row in rows.tolist()]
    members = by_group(y, groups)
    fold, dealt = torch.zeros_like(y), 0
    for names in strata(y, members):
        for name in sorted(names, key=lambda name: (counter("fold", seed, name), str(name))):
            fold[members[name]] = dealt % folds
            dealt += 1
    total, seen = x.new_zeros(len(grid)), y.new_zeros(k)
    for one in range(folds):
        out = fold == one
        if not bool(out.any()) or bool((torch.bincount(y[~out], minlength=k) == 0).any()):
            continue
        seen += torch.bincount(y[out], minlength=k)
        for place, probe in enumerate(_fit(x[~out], y[~out], k, weights[~out], grid, 1e-5)):
            right = probe.probabilities(x[out])[torch.arange(int(out.sum())), y[out]]
            total[place] -= (weights[out] * right.clamp_min(1e-300).log()).sum()
    return grid[int(total.argmin())] if bool((seen > 0).all()) else x.shape[1] / 10


def _told(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    y, k = counted(labels)
    p, y = probabilities.double(), y.to(probabilities.device)
    if p.shape != (len(y), k) or not bool((p >= 0).all()) or not bool(((p.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError(
            f"probabilities of {tuple(p.shape)} for {len(y)} labels of {k} classes: give ({len(y)}, {k}), rows of sum 1"
        )
    return p, y, k


def _t(freedom: int) -> float:
    """The 97.5 % point of Student's t: a table, then Hill's expansion about the normal one (error below 1e-4)."""
    table = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
    if freedom <= len(table):
        return table[freedom - 1]
    z = 1.959964
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))
