"""What stochastic solvers draw: the exact marginals of the exact denoiser, at every level and at the end."""

import math

import numpy as np
import pytest
import torch
from mixture import Mixture, same_law
from test_solvers import DETERMINISTIC, STOCHASTIC, THREE, last, start

from vlgen.schedules import exponential, karras
from vlgen.solvers import consistency, ddpm, heun, langevin, pc_vp, solver
from vlgen.solvers.langevin import _correct
from vlgen.solvers.walk import Walk
from vlgen.tensors import counter, normal

# Data N(0, 1). Every walk whose steps do not depend on norms is linear in its start and its noise, so that the variance
# it leaves is known without drawing anything: let each draw be a new unit vector, and add up squares.

HI, LO = 10.0, 0.05


def linear(x, sigma):
    return x / (1 + sigma**2)


@pytest.fixture
def unit_noise(monkeypatch):
    """Every draw is the next unit vector; pixel 0 is the start's."""

    def draw(walk, *words):
        walk.drawn = getattr(walk, "drawn", 0) + 1
        unit = torch.zeros_like(walk.x)
        unit[..., walk.drawn] = 1
        return unit

    monkeypatch.setattr(Walk, "noise", draw)


def variances(name, sigmas, draws=4000):
    """(level, variance) after every step but the last, from the exact variance at the start."""
    x = torch.zeros(1, 1, 1, draws, dtype=torch.float64)
    x[..., 0] = math.sqrt(1 + float(sigmas[0]) ** 2)
    return [
        (state.sigma, float(state.x.square().sum()))
        for state in solver(name)(linear, x, sigmas, seeds=[0])
        if state.sigma
    ]


def worst(name, n):
    """The largest relative error of the variance along a walk."""
    return max(abs(found / (1 + sigma**2) - 1) for sigma, found in variances(name, exponential(n, LO, HI)))


EXACT = ["ddim:1", "ddim:0.5", "ddpm", "ddpm:0.5", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_2m_sde:0.5"]
EXACT += ["heun:churn=10", "pc_ve:corrections=0", "pc_vp:corrections=0"]


@pytest.mark.parametrize("name", EXACT)
def test_the_error_of_the_marginals_falls_with_the_promised_order(unit_noise, name):
    steps = [100, 200, 400]
    errors = [worst(name, n) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(name, [f"{error:.1e}" for error in errors])
    assert slope == pytest.approx(solver(name).order, abs=0.25)
    assert errors[-1] < 0.05  # and it falls to 0


def test_the_large_variance_of_ddpm_is_exact_for_standard_normal_data(unit_noise):
    """Ho et al. 2020, section 3.2: it is the optimal one there, in any number of steps; the small one is not."""
    assert worst("ddpm:1", 7) < 1e-12
    assert worst("ddpm", 7) > 0.1


@pytest.mark.parametrize(("name", "step"), [("langevin:4,step=0.2", 0.2), ("langevin:4,step=0.5", 0.5)])
def test_langevin_leaves_the_spread_of_its_step_and_no_other(unit_noise, name, step):
    """Langevin's steps in a normal law of variance V leave the variance V / (1 - step sigma^2 / (4 V))."""
    for sigma, found in variances(name, exponential(700, LO, HI))[200:]:
        ratio = sigma**2 / (1 + sigma**2)
        # 0.0076 in log sigma a level, against 4 steps that forget 2 step ratio of the past: a lag below 1 %
        lag = 0.04 * ratio / min(1, 4 * step * ratio)
        assert found / (1 + sigma**2) == pytest.approx(1 / (1 - step * ratio / 4), abs=0.002 + lag)


def test_churn_takes_back_what_it_adds(unit_noise):
    """S_noise above 1 adds more than Heun's step removes, and the spread says so."""
    assert worst("heun:churn=10", 200) < 1e-3
    assert worst("heun:churn=10,noise=1.05", 200) > 0.02


# By the papers' own words.


def test_heun_with_churn_is_algorithm_2():
    """Karras et al. 2022, Algorithm 2, line by line, where S_tmax keeps it below the start."""
    sigmas, seeds = karras(8, 0.1, 10.0).double(), [3, 4]
    churn, tmin, tmax, s_noise = 2.0, 0.3, 6.0, 1.01
    t, n = sigmas.tolist(), 8
    x = start(2, 10.0)
    ours = list(heun(THREE.denoiser(), x, sigmas, churn=churn, tmin=tmin, tmax=tmax, noise=s_noise, seeds=seeds))
    raised = 0
    for i in range(n):
        gamma = min(churn / n, math.sqrt(2) - 1) if tmin <= t[i] <= tmax else 0
        raised += gamma > 0
        hat = t[i] + gamma * t[i]
        eps = s_noise * normal((1, 2, 2), [counter(seed, i + 1) for seed in seeds]).double()
        x_hat = x + math.sqrt(hat**2 - t[i] ** 2) * eps
        d = (x_hat - THREE.denoiser()(x_hat, torch.tensor(hat, dtype=torch.float64))) / hat
        x = x_hat + (t[i + 1] - hat) * d
        if t[i + 1] != 0:
            d_next = (x - THREE.denoiser()(x, torch.tensor(t[i + 1], dtype=torch.float64))) / t[i + 1]
            x = x_hat + (t[i + 1] - hat) * (d / 2 + d_next / 2)
        torch.testing.assert_close(ours[i].x, x, rtol=1e-10, atol=1e-10)
    assert 3 <= raised <= 6


def test_langevin_is_algorithm_1():
    """Song and Ermon 2019, Algorithm 1, with epsilon = step * sigma_L^2, and one estimate at the end."""
    sigmas, seeds = exponential(5, 0.1, 10.0).double(), [3, 4]
    x = start(2, 10.0)
    ours = list(langevin(THREE.denoiser(), x, sigmas, each=3, step=0.1, seeds=seeds))
    levels = sigmas[1:-1]
    epsilon = 0.1 * levels[-1] ** 2
    for i, sigma in enumerate(levels):
        alpha = epsilon * sigma**2 / levels[-1] ** 2
        for j in range(3):
            z = normal((1, 2, 2), [counter(seed, i + 1, j) for seed in seeds]).double()
            score = (THREE.denoiser()(x, sigma) - x) / sigma**2
            x = x + alpha / 2 * score + alpha.sqrt() * z
        torch.testing.assert_close(ours[i].x, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[-1].x, THREE.denoiser()(x, levels[-1]), rtol=1e-10, atol=1e-10)


def test_pc_vp_is_algorithms_3_and_5():
    """Song et al. 2021, in the coordinates of the paper, X = alpha x, with betas from the levels."""
    sigmas, seeds, snr = exponential(6, 0.1, 10.0).double(), [3, 4], 0.16
    x = start(2, 10.0)
    ours = list(pc_vp(THREE.denoiser(), x, sigmas, snr=snr, corrections=2, seeds=seeds))
    bars = 1 / (1 + sigmas**2)  # products of the alphas
    big = bars[0].sqrt() * x

    def score(big, k):
        x0 = THREE.denoiser()(big / bars[k].sqrt(), sigmas[k])
        return -(big - bars[k].sqrt() * x0) / (1 - bars[k])

    def draw(i, *words):
        return normal((1, 2, 2), [counter(seed, i, *words) for seed in seeds]).double()

    for i in range(5):
        beta = 1 - bars[i] / bars[i + 1]
        big = (2 - (1 - beta).sqrt()) * big + beta * score(big, i) + beta.sqrt() * draw(i + 1)
        for j in range(2):
            g, z = score(big, i + 1), draw(i + 1, j)
            norms = z.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)
            epsilon = (2 * (1 - beta) * (snr * norms) ** 2).reshape(-1, 1, 1, 1)
            big = big + epsilon * g + (2 * epsilon).sqrt() * z
        torch.testing.assert_close(ours[i].x, big / bars[i + 1].sqrt(), rtol=1e-10, atol=1e-10)


def test_ddpm_between_its_two_variances():
    x, sigmas = start(1, 10.0), karras(3, 0.1, 10.0)
    small, half, large = (next(ddpm(THREE.denoiser(), x, sigmas, v=v, seeds=[0])).x for v in (0, 0.5, 1))
    mean = x + (1 - (sigmas[1] / sigmas[0]) ** 2) * (THREE.denoiser()(x, sigmas[0].double()) - x)
    torch.testing.assert_close((half - mean) ** 2, (small - mean) * (large - mean), rtol=1e-4, atol=1e-8)


# Correctors, whose steps depend on norms.


@pytest.mark.parametrize("pixels", [16, 256])
def test_correctors_alone_leave_the_variance_that_their_docstring_says(pixels):
    """Short steps at N(0, 1): ((pixels + 2) / pixels)^2, and their length's share on it.

    By Fokker and Planck: with steps of c |z|^2 / |x|^2 the noise is larger than the drift's by (pixels + 2) / pixels,
    which is a temperature, and a law that moves less where |x| is large has |x|^2 more of its density there.
    """
    draw, snr = torch.Generator().manual_seed(0), 0.1
    x = torch.randn(16000 // pixels, 1, 1, pixels, generator=draw, dtype=torch.float64)
    found = []
    for k in range(1200):  # 4 snr^2 of the past is forgotten at each
        x = _correct(x, -x, snr, torch.randn(x.shape, generator=draw, dtype=torch.float64))
        if k >= 300:
            found.append(float(x.square().mean()))
    exact = (1 + 2 / pixels) ** 2 / (1 - snr**2)
    # 16000 values, drawn anew about 20 times; steps and norms together leave terms of the order 4 snr^2 / pixels
    assert sum(found) / len(found) == pytest.approx(exact, abs=4 * math.sqrt(2 / 320_000) + 8 * snr**2 / pixels)


@pytest.mark.parametrize(("name", "snr"), [("pc_ve", 0.16), ("pc_ve:0.05", 0.05), ("pc_vp", 0.16), ("pc_vp:0.4", 0.4)])
def test_the_variance_of_predictor_and_corrector_is_that_of_their_recursion(fast_noise, name, snr):
    """Data N(0, 1) in so many pixels that norms are what they are on average, so that each step maps a variance."""
    levels = exponential(60, LO, HI).double()
    x = math.sqrt(1 + HI**2) * normal((1, 128, 128), range(8)).double()
    variance = 1 + HI**2
    for state in solver(name)(linear, x, levels, seeds=range(8)):
        sigma, below = float(levels[state.i - 1]), state.sigma
        if below == 0:
            break
        if "ve" in name:
            kept, gone = 1.0, sigma**2 - below**2
            variance = variance * (1 - gone / (1 + sigma**2)) ** 2 + gone
        else:  # in X, whose data and noise have the variance 1 together
            kept = (1 + below**2) / (1 + sigma**2)
            big = variance / (1 + sigma**2)
            big = big * (2 - math.sqrt(kept) - (1 - kept)) ** 2 + 1 - kept
            variance = big * (1 + below**2)
        total = 1 + below**2
        step = 2 * kept * (snr * total) ** 2 / variance
        variance = variance * (1 - step / total) ** 2 + 2 * step
        # four standard errors of 131072 values, and the 4 / pixels of the norms
        assert float(state.x.square().mean()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 131_072) + 4 / 128**2)


# Samples of the mixture, against exact draws: energy distance within the sampling error.

N = 500


@pytest.fixture
def fast_noise(monkeypatch):
    """One generator for all images of a batch: seeds have their own tests, and cost most of the time."""
    draw = torch.Generator().manual_seed(7)

    def noise(walk, *words):
        return torch.randn(walk.x.shape, generator=draw, dtype=walk.x.dtype)

    monkeypatch.setattr(Walk, "noise", noise)


def likely(x, sigma, D=math.inf):
    """The least p of three tests that images are exact draws at level sigma.

    As they are, which sees wrong weights and places; within their mode; and by how far from it they lie, which sees
    wrong spreads.
    """
    other = THREE.noisy(N, sigma, seed=3, D=D)
    inside, there = THREE.standardized(x, sigma), THREE.standardized(other, sigma)
    radii = [part.flatten(1).norm(dim=1, keepdim=True) for part in (inside, there)]
    return min(same_law(x, other), same_law(inside, there), same_law(*radii))


def walked(name, steps, D=math.inf):
    """p of the samples, and of the State nearest to sigma 1, of a walk from the exact marginal."""
    x = THREE.noisy(N, HI, seed=1, D=D)
    states = list(solver(name)(THREE.denoiser(D, nodes=40), x, karras(steps, 0.02, HI), seeds=range(N)))
    middle = min(states[:-1], key=lambda state: abs(state.sigma - 1))
    return likely(states[-1].x, 0.0), likely(middle.x, middle.sigma, D)


# 400 steps of the first order leave the variance of N(0, 1) wrong by up to 0.02, as does a step / 4 of 0.025; the
# sampling error of 2000 values is sqrt(2 / 2000) = 0.032, in each of two sets
WALKS = {name: 400 if solver(name).order == 1 else 60 for name in [*DETERMINISTIC, *STOCHASTIC] if solver(name).order}
WALKS["langevin:30,step=0.1"] = 40
RARE = 2e-3  # what two orders in a thousand reach; the noise is fixed, and a right walk fails six tests in 1 of 80


@pytest.mark.parametrize("name", WALKS)
def test_samples_are_those_of_the_mixture(fast_noise, name):
    assert min(walked(name, WALKS[name])) > RARE


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "rk45"])
def test_samples_are_those_of_the_mixture_under_pfgmpp(name):
    assert min(walked(name, 100 if name == "euler" else 40, D=16.0)) > RARE


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("heun:churn=20,noise=1.1", 60),
        ("ddpm:1", 12),
        ("ddpm", 12),
        ("euler", 6),
        ("langevin:30,step=1", 40),
        ("langevin:1,step=0.1", 40),
        ("pc_ve:corrections=0", 12),
        ("pc_ve:0.03,corrections=1", 300),  # in four pixels: see above
    ],
)
def test_the_energy_distance_sees_what_is_wrong(fast_noise, name, steps):
    """What must fail: the same test on walks that are known to be off."""
    assert min(walked(name, steps)) < RARE


def test_a_consistency_function_gives_the_law_in_any_number_of_steps():
    """The exact one: where Heun's path through (x, sigma) ends. A plain denoiser is not one, and is seen not to be."""

    def end(x, sigma):
        return last(heun(THREE.denoiser(), x, karras(40, 0.02, float(sigma))))

    x = THREE.noisy(N, HI, seed=1)
    for levels in ([HI, 0.0], [HI, 2.0, 0.5, 0.0]):
        sigmas = torch.tensor(levels)
        assert likely(last(consistency(end, x, sigmas, seeds=range(N))), 0.0) > RARE
        assert likely(last(consistency(THREE.denoiser(), x, sigmas, seeds=range(N))), 0.0) < RARE
    assert torch.equal(last(consistency(end, x, torch.tensor([HI, 0.0]), seeds=range(N))), end(x, torch.tensor(HI)))


def test_consistency_wants_levels_above_its_end():
    with pytest.raises(ValueError, match=r"lo = 0.5 .* down to 0.1.*levels above lo"):
        next(consistency(linear, start(1, 1.0), torch.tensor([1.0, 0.1, 0.0]), lo=0.5, seeds=[0]))
    assert next(consistency(linear, start(1, 1.0), torch.tensor([1.0, 0.0]), lo=0.5, seeds=[0])).i == 1


def test_the_energy_distance_knows_one_law_from_two():
    a = THREE.noisy(N, 0.5, seed=1)
    assert likely(a, 0.5) > 1e-2
    assert likely(a + 0.3, 0.5) < RARE
    for stds, weights in ((1.3, [0.2, 0.3, 0.5]), (0.8, [0.2, 0.3, 0.5]), (1.0, [0.3, 0.3, 0.4])):
        other = Mixture(torch.tensor(weights).double(), THREE.means, THREE.stds * stds)
        assert likely(other.noisy(N, 0.5 * stds, seed=4), 0.5) < RARE
