"""Distances between sets of features: closed forms, laws, brute force over all pairs, and the references' formulas."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vlgen.metrics import distribution
from vlgen.metrics.distribution import Manifold, bootstrap, clip_mmd, cubic, frechet, gaussian, kernel_distance, mmd

prdc = distribution.precision_recall_density_coverage


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """x moved so that its sample mean and sample covariance are the given ones up to rounding."""
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_whose_covariances_commute() -> None:
    d = 6
    axes = torch.linalg.qr(normal(d, d, 9)).Q
    mean, spread = normal(2, d, 8), torch.rand(2, d, generator=torch.Generator().manual_seed(7)).double() + 0.1
    closed = float((mean[0] - mean[1]).square().sum() + (spread[0].sqrt() - spread[1].sqrt()).square().sum())
    a, b = (exactly(normal(40 + 9 * i, d, i), mean[i], axes @ torch.diag(spread[i]) @ axes.T) for i in (0, 1))
    assert math.isclose(frechet(a, b), closed, rel_tol=1e-12), "float64; condition number about 10"
    shift = torch.full((d,), 0.5, dtype=torch.float64)
    assert math.isclose(frechet(a, a + shift), 0.25 * d, rel_tol=1e-12), "a translation: its squared length"
    assert math.isclose(frechet(a - a.mean(0), 3 * (a - a.mean(0))), 4 * float(torch.cov(a.T).trace()), rel_tol=1e-12)


def test_frechet_of_samples_is_within_monte_carlo_error() -> None:
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    closed = float(shift.square().sum() + (scale - 1).square().sum())
    found = torch.tensor(
        [frechet(normal(2000, 3, 2 * i), normal(2000, 3, 2 * i + 1) * scale + shift) for i in range(20)]
    )
    error = float(found.std()) / math.sqrt(20)
    # the bias at n samples is of the order d (1 + |scale|^2) / n = 0.01, hence its place beside three standard errors
    assert abs(float(found.mean()) - closed) < 3 * error + 0.01
    assert 0.005 < error < 0.05, "the test has power: the distance is 3.25"


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 24), (60, 200, 24), (20, 15, 48), (20, 200, 48), (49, 48, 48)])
def test_frechet_equals_the_formula_with_a_matrix_square_root(n: int, m: int, d: int) -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy comes with the dev extra")
    mix = normal(d, d, 5) / math.sqrt(d)
    a, b = normal(n, d, 1) @ mix, 1.3 * normal(m, d, 2) @ mix + 0.2
    cov_a, cov_b = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of singular products, which are meant here
        root = linalg.sqrtm(cov_a @ cov_b).real.trace()
    theirs = float((a.mean(0) - b.mean(0)).square().sum()) + cov_a.trace() + cov_b.trace() - 2 * root
    # the square root of a product that is zero up to 1e-16 is 1e-8 wrong, in each of d directions
    assert math.isclose(frechet(a, b), theirs, rel_tol=1e-6)


def test_frechet_is_the_same_on_both_sides_of_n_equals_d() -> None:
    a, b = normal(30, 12, 1), 0.7 * normal(25, 12, 2) + 0.1
    padded = [torch.cat([x, torch.full((len(x), 40), 3.0, dtype=x.dtype)], 1) for x in (a, b)]
    assert math.isclose(frechet(a, b), frechet(*padded), rel_tol=1e-12), "constant features add nothing but columns"
    d = 20  # 20 rows take the features themselves, 40 rows of the same covariance take the triangle
    x, y = normal(20, d, 3), normal(19, d, 4)
    twice = (torch.cat([x, x]) - x.mean(0)) * math.sqrt(39 / 38) + x.mean(0)  # the covariance divides by n - 1
    assert math.isclose(frechet(x, y), frechet(twice, y), rel_tol=1e-12)


@pytest.mark.parametrize("statistic", [frechet, mmd, clip_mmd, lambda a, b: mmd(a, b, kernel=gaussian)])
def test_symmetry_and_permutation(statistic) -> None:
    a, b = normal(40, 5, 1), 1.5 * normal(30, 5, 2)
    assert math.isclose(statistic(a, b), statistic(b, a), rel_tol=1e-9)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert math.isclose(statistic(a, b), statistic(a[order], b.flip(0)), rel_tol=1e-9)
    assert 0 <= frechet(a, a[order]) < 1e-12 * float(torch.cov(a.T).trace()), "a set against itself, up to rounding"


def test_arithmetic_is_in_float64_and_never_below_zero() -> None:
    a, b = normal(40, 5, 1).float(), 1.5 * normal(30, 5, 2).float()
    for statistic in (frechet, mmd, clip_mmd, prdc):
        assert statistic(a, b) == statistic(a.double(), b.double())
    same = [frechet(x, x.flip(0)) for x in (normal(40, 5, i) for i in range(20))]
    assert all(0 <= x < 1e-12 for x in same) and 0 in same, "rounding of both signs is met, of a trace of about 5"


def by_pairs(a: Tensor, b: Tensor, k) -> float:
    """Gretton's eq. 3, one pair at a time."""

    def mean(x: Tensor, y: Tensor, same: bool) -> float:
        found = [k(x[i], y[j]) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum(found) / len(found)

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)


def test_mmd_equals_the_sum_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(9, 4, 1), normal(7, 4, 2) + 0.5
    cube = by_pairs(a, b, lambda x, y: (float(x @ y) / 4 + 1) ** 3)
    assert math.isclose(mmd(a, b), cube, rel_tol=1e-12)
    bell = by_pairs(a, b, lambda x, y: math.exp(-float((x - y).square().sum()) / 200))
    assert math.isclose(mmd(a, b, kernel=gaussian), bell, rel_tol=1e-10), "a difference of numbers near 1"
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    assert math.isclose(clip_mmd(a, 5 * b), 1000 * mmd(*unit, kernel=gaussian), rel_tol=1e-9), "rows are normalized"
    monkeypatch.setattr(distribution, "chunks", lambda n, m: (slice(i, i + 2) for i in range(0, n, 2)))
    assert math.isclose(mmd(a, b), cube, rel_tol=1e-12), "in blocks of two rows"


def test_clip_mmd_is_the_published_code_without_its_diagonal() -> None:
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (normal(12, 4, 1), normal(9, 4, 2) + 0.5))
    published = 1000 * (gaussian(a, a).mean() + gaussian(b, b).mean() - 2 * gaussian(a, b).mean())
    within = [(gaussian(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    extra = 1000 * sum((1 - k) / len(x) for k, x in zip(within, (a, b), strict=True))
    assert math.isclose(clip_mmd(a, b), float(published - extra), rel_tol=1e-9)


@pytest.mark.parametrize("kernel", [cubic, gaussian])
def test_mmd_is_unbiased(kernel) -> None:
    found = torch.tensor([mmd(normal(20, 4, 2 * i), normal(15, 4, 2 * i + 1), kernel=kernel) for i in range(200)])
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean())) < 3 * error
    # with the diagonal kept, the mean moves by E[k(x, x) - k(x, y)] (1 / n + 1 / m), far more than three errors
    x, y = normal(500, 4, 5), normal(500, 4, 6)
    diagonal = float(kernel(x, x).diagonal().mean() - kernel(x, y).mean()) * (1 / 20 + 1 / 15)
    assert diagonal > 10 * error, "the test has power"
    assert mmd(normal(20, 4, 1), normal(15, 4, 2) + 1.5, kernel=kernel) > 3 * float(found.std())


def test_kernel_distance_over_subsets() -> None:
    a, b = normal(60, 6, 1), normal(50, 6, 2) + 0.4
    mean, std = kernel_distance(a, b, subsets=60, size=25)
    assert abs(mean - mmd(a, b)) < 4 * std / math.sqrt(60), "each subset is an unbiased estimate of the whole figure"
    assert mean > 0 < std
    assert kernel_distance(a, b, subsets=60, size=25) == (mean, std)
    assert kernel_distance(a, b, subsets=60, size=25, seed=1) != (mean, std)
    assert kernel_distance(a, b) == kernel_distance(a, b, size=25), "half of the smaller set"
    null = torch.tensor([kernel_distance(normal(40, 4, 2 * i), normal(40, 4, 2 * i + 1), subsets=5) for i in range(60)])
    assert abs(float(null[:, 0].mean())) < 3 * float(null[:, 0].std()) / math.sqrt(60)
    for size in (50, 60, 1):
        with pytest.raises(ValueError, match="from 2 to 49"):
            kernel_distance(a, b, size=size)
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(a, b, subsets=1)


def by_definition(real: Tensor, fake: Tensor, k: int) -> Manifold:
    """Naeem et al. 2020, section 3, one image at a time."""

    def distance(x: Tensor, y: Tensor) -> float:
        return float((x - y).square().sum().sqrt())

    def radius(points: Tensor, i: int) -> float:
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    ball_real = [radius(real, i) for i in range(len(real))]
    ball_fake = [radius(fake, j) for j in range(len(fake))]
    inside = [[distance(x, y) < ball_real[i] for y in fake] for i, x in enumerate(real)]
    recalled = [any(distance(x, y) < ball_fake[j] for j, y in enumerate(fake)) for x in real]
    n, m = len(real), len(fake)
    return Manifold(
        sum(any(inside[i][j] for i in range(n)) for j in range(m)) / m,
        sum(recalled) / n,
        sum(map(sum, inside)) / (k * m),
        sum(map(any, inside)) / n,
    )


@pytest.mark.parametrize(("n", "m", "k", "shift"), [(30, 25, 5, 0.3), (25, 30, 3, 1.5), (12, 40, 1, 0.0)])
def test_precision_recall_density_coverage_by_definition(n: int, m: int, k: int, shift: float) -> None:
    real, fake = normal(n, 3, 1), normal(m, 3, 2) + shift
    expected = by_definition(real, fake, k)
    assert prdc(real, fake, k) == pytest.approx(expected, rel=1e-12), "counts over counts"
    far = prdc(real + 1e5, fake + 1e5, k)
    assert far == pytest.approx(expected, rel=1e-12), "a translation leaves the counts alone"
    assert prdc(real.flip(0), fake.roll(3, 0), k) == pytest.approx(expected, rel=1e-12)


def test_precision_recall_density_coverage_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(30, 3, 1), normal(25, 3, 2)
    whole = prdc(real, fake, 4)
    monkeypatch.setattr(distribution, "chunks", lambda n, m: (slice(i, i + 7) for i in range(0, n, 7)))
    assert prdc(real, fake, 4) == whole


def test_precision_recall_density_coverage_on_constructed_manifolds() -> None:
    two = torch.cat([normal(100, 4, 1), normal(100, 4, 2) + 50])
    assert prdc(two, two) == Manifold(1, 1, 1, 1), "open balls: itself and k - 1 others"
    assert prdc(two, two + 500) == Manifold(0, 0, 0, 0)
    dropped = prdc(two, normal(200, 4, 3))
    assert dropped.precision > 0.8 and 0.35 < dropped.recall <= 0.5 and dropped.coverage <= 0.5, "one of two modes"
    added = prdc(normal(200, 4, 3), two)
    assert added.recall > 0.8 and 0.35 < added.precision <= 0.5, "half of the fake images lie nowhere"
    collapsed = prdc(two, two[:1] + 1e-6 * normal(50, 4, 4))
    assert collapsed.precision == 1 and collapsed.recall <= 1 / 200 and collapsed.coverage < 0.1
    far = torch.cat([two, torch.full((1, 4), 25.0, dtype=torch.float64)])  # one real outlier with a huge ball
    assert prdc(far, torch.full((50, 4), 25.0).double()).coverage < 0.02
    same = [prdc(normal(150, 4, 2 * i), normal(150, 4, 2 * i + 1)) for i in range(20)]
    density = torch.tensor([x.density for x in same], dtype=torch.float64)
    assert abs(float(density.mean()) - 1) < 3 * float(density.std()) / math.sqrt(20) + 1 / 150, "k of n - 1 neighbors"
    coverage = torch.tensor([x.coverage for x in same], dtype=torch.float64)
    expected = 1 - math.prod((150 - 1 - i) / (2 * 150 - 1 - i) for i in range(5))  # Naeem et al., lemma 2
    assert abs(float(coverage.mean()) - expected) < 3 * float(coverage.std()) / math.sqrt(20)


def test_squared_distances_and_the_size_of_blocks() -> None:
    a, b = normal(6, 5, 1), normal(4, 5, 2)
    assert torch.allclose(distribution.squared(a, b), torch.cdist(a, b).square(), atol=1e-12)
    x = 100 + normal(60, 5, 3)
    assert bool((distribution.squared(x, x + 1e-9) >= 0).all()), "the rounding of norms of 5e4 is larger"
    slices = list(distribution.chunks(100_000, 50_000))
    assert slices[0].start == 0 and slices[-1].stop >= 100_000
    assert all(left.stop == right.start for left, right in pairwise(slices))
    assert (slices[0].stop - slices[0].start) * 50_000 * 8 <= 64 * 2**20


def test_bootstrap_interval_of_a_mean() -> None:
    x = normal(200, 1, 1)
    low, high = bootstrap(lambda x: float(x.mean()), x)
    error = float(x.std()) / math.sqrt(200)
    middle = float(x.mean())
    # the normal interval; the quantiles of 1000 draws scatter by about 7 % of its half-width
    assert math.isclose(low, middle - 1.96 * error, abs_tol=0.3 * error)
    assert math.isclose(high, middle + 1.96 * error, abs_tol=0.3 * error)
    assert bootstrap(lambda x: float(x.mean()), x) == (low, high)
    assert bootstrap(lambda x: float(x.mean()), x, seed=1) != (low, high)
    both = bootstrap(lambda x, y: float(x.mean() - y.mean()), x, x)
    assert math.isclose(both[1] - both[0], math.sqrt(2) * (high - low), rel_tol=0.2), "each sample is drawn by itself"
    narrow = bootstrap(lambda x: float(x.mean()), x, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    hits = 0
    for i in range(100):
        low, high = bootstrap(lambda x: float(x.mean()), normal(60, 1, 100 + i), draws=100)
        hits += low < 0 < high
    assert 87 <= hits <= 100, "95 of 100 are expected, with a standard deviation of 2.2 and a little less at 100 draws"


def test_centered_bootstrap_holds_a_figure_that_repeats_inflate() -> None:
    a, b = normal(80, 10, 1), normal(80, 10, 2)
    value = frechet(a, b)
    low, _ = bootstrap(frechet, a, b, draws=50)
    assert low > value, "a draw repeats rows, so every draw is too far"
    low, high = bootstrap(frechet, a, b, draws=50, center=True)
    assert low < value < high


def test_halves_are_disjoint_and_repeatable() -> None:
    for n in (2, 7, 100):
        a, b = distribution.halves(n, seed=3)
        assert len(a) == len(b) == n // 2 and len({*a.tolist(), *b.tolist()}) == n // 2 * 2
        assert int(torch.cat([a, b]).max()) < n
        assert all(torch.equal(x, y) for x, y in zip(distribution.halves(n, seed=3), (a, b), strict=True))
    assert not torch.equal(distribution.halves(100, seed=4)[0], a)
    with pytest.raises(ValueError, match="at least 2"):
        distribution.halves(1)


@pytest.mark.parametrize(
    ("function", "need"),
    [(frechet, 2), (mmd, 2), (clip_mmd, 2), (kernel_distance, 4), (prdc, 6)],
)
def test_what_does_not_fit_is_refused(function, need: int) -> None:
    good = normal(20, 3)
    with pytest.raises(ValueError, match=f"has {need - 1} images: at least {need} are needed"):
        function(good, good[: need - 1])
    function(good, normal(need, 3, 1))
    with pytest.raises(ValueError, match="1 of 20 rows that are not finite"):
        function(good, good.index_fill(0, torch.tensor([4]), math.nan))
    for wrong in (good[0], good.long(), good[:, :0], good[None]):
        with pytest.raises(ValueError, match="floating-point features"):
            function(wrong, good)
    with pytest.raises(ValueError, match=r"\[2, 3\] features"):
        function(good, good[:, :2])


def test_further_refusals() -> None:
    x = normal(20, 3)
    with pytest.raises(ValueError, match="rows of zeros"):
        clip_mmd(x, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="k is 0"):
        prdc(x, x, 0)
    for rows, options, answer in (
        (1, {}, "2 rows"),
        (20, {"level": 95}, "level is 95"),
        (20, {"draws": 39}, "least 40"),
    ):
        with pytest.raises(ValueError, match=answer):
            bootstrap(lambda x: 0.0, x[:rows], **options)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap(lambda x: math.nan, x)
