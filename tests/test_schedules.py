from fractions import Fraction

import pytest
import torch
from diffusers import DDIMScheduler

from vlgen.schedules import SCHEDULES, exponential, karras, schedule, trailing, uniform

BETAS = {
    "stable diffusion": dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    "ddpm": dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
}


def trained(betas):
    """The sigmas of diffusers' noise table, (1000,) increasing."""
    alphas = DDIMScheduler(**BETAS[betas]).alphas_cumprod.double()
    return ((1 - alphas) / alphas).sqrt()


TABLE = trained("stable diffusion")
LO, HI = float(TABLE[0]), float(TABLE[-1])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 18, 50, 250, 1000])
def test_every_schedule_decreases_from_the_largest_level_to_0(name, n):
    sigmas = schedule(name, n, LO, HI, TABLE)
    assert sigmas.shape == (n + 1,) and sigmas.dtype == torch.float32
    assert bool((sigmas.diff() < 0).all()) and sigmas[-1] == 0
    assert sigmas[0] == torch.tensor(HI).float()
    assert sigmas[-2] >= torch.tensor(LO).float()
    if name != "trailing" and n > 1:
        assert sigmas[-2] == torch.tensor(LO).float()


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_goes_from_the_largest_level_to_0(name):
    assert schedule(name, 1, LO, HI, TABLE).tolist() == [torch.tensor(HI).float(), 0]


@pytest.mark.parametrize(
    ("n", "lo", "hi", "rho"), [(18, 0.002, 80, 7), (5, 0.03, 14.6, 7), (9, 0.1, 10, 3), (4, 1, 2, 1)]
)
def test_karras_is_equation_5(n, lo, hi, rho):
    """Karras et al. 2022, arXiv:2206.00364, eq. 5, one level at a time in Python's floats."""
    a, b = hi ** (1 / rho), lo ** (1 / rho)
    exact = [(a + i / (n - 1) * (b - a)) ** rho for i in range(n)] + [0.0]
    # one float32 rounding, 6e-8
    torch.testing.assert_close(karras(n, lo, hi, rho=rho), torch.tensor(exact), rtol=1e-7, atol=0)


def test_karras_presets_of_the_paper():
    # EDM's own 18 steps from 80 to 0.002, computed by hand from eq. 5 with rho = 7
    assert karras(18, 0.002, 80)[[0, 1, 17, 18]].tolist() == pytest.approx([80, 57.586, 0.002, 0], abs=1e-3)


def test_exponential_has_one_ratio_and_uniform_one_difference():
    # float32 rounding, 6e-8 relative per level; differences of levels near 14.6 lose a factor 10
    levels = exponential(10, LO, HI)[:-1].double()
    torch.testing.assert_close(
        levels[1:] / levels[:-1], torch.full((9,), (LO / HI) ** (1 / 9)).double(), rtol=3e-7, atol=0
    )
    levels = uniform(10, LO, HI)[:-1].double()
    torch.testing.assert_close(levels.diff(), torch.full((9,), (LO - HI) / 9).double(), rtol=3e-6, atol=0)


def test_karras_with_rho_1_is_uniform_and_with_large_rho_exponential():
    torch.testing.assert_close(karras(12, LO, HI, rho=1), uniform(12, LO, HI), rtol=2e-7, atol=0)
    # the limit is approached like 1 / rho
    torch.testing.assert_close(karras(12, LO, HI, rho=1e6), exponential(12, LO, HI), rtol=1e-4, atol=0)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 10, 18, 20, 25, 30, 50, 100, 250, 333, 500, 999, 1000])
def test_trailing_picks_the_timesteps_of_diffusers(betas, n):
    reference = DDIMScheduler(**BETAS[betas], timestep_spacing="trailing")
    reference.set_timesteps(n)
    table = trained(betas)
    assert torch.equal(trailing(n, table), torch.cat([table[reference.timesteps], torch.zeros(1)]).float())


def test_trailing_rounds_the_exact_timestep_for_every_number_of_steps():
    """In exact fractions: diffusers' own list has one timestep too many for some n, such as 61."""
    table = torch.arange(1, 1001).double()  # each sigma is its timestep, counted from 1
    for n in [*range(1, 100), *range(100, 1001, 7), 1000]:
        picked = trailing(n, table)[:-1].long().tolist()
        assert len(picked) == n
        assert all(abs(Fraction(1000 * (n - i), n) - t) <= Fraction(1, 2) for i, t in enumerate(picked))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n", [0, -3])
def test_too_few_steps_are_refused(name, n):
    with pytest.raises(ValueError, match="use at least 1"):
        schedule(name, n, LO, HI, TABLE)


@pytest.mark.parametrize("make", [karras, exponential, uniform])
@pytest.mark.parametrize(
    ("lo", "hi"), [(1, 1), (2, 1), (0, 1), (-1, 1), (0.1, float("inf")), (float("nan"), 1), (0.1, float("nan"))]
)
def test_wrong_ranges_are_refused(make, lo, hi):
    with pytest.raises(ValueError, match="0 < lo < hi"):
        make(10, lo, hi)


@pytest.mark.parametrize("rho", [0, -7, float("nan"), float("inf")])
def test_wrong_rho_is_refused(rho):
    with pytest.raises(ValueError, match="use 7"):
        karras(10, LO, HI, rho=rho)


def test_unknown_names_and_missing_tables_are_refused():
    with pytest.raises(ValueError, match="karras, exponential, uniform, trailing"):
        schedule("cosine", 10, LO, HI)
    with pytest.raises(ValueError, match="as table"):
        schedule("trailing", 10, LO, HI)
    with pytest.raises(ValueError, match="another schedule"):
        schedule("trailing", 10, LO, HI / 2, TABLE)


@pytest.mark.parametrize(
    ("n", "table", "message"),
    [
        (1001, TABLE, "use 1 to 1000 steps"),
        (0, TABLE, "use 1 to 1000 steps"),
        (4, TABLE.flip(0), "must increase"),
        (2, torch.tensor([1.0, 1.0, 2.0]), "must increase"),
        (2, torch.tensor([1.0, float("inf")]), "finite values"),
        (2, torch.tensor([0.0, 1.0]), "finite values"),
        (2, TABLE[None], "one row"),
        (1, TABLE[:0], "one row"),
    ],
)
def test_wrong_tables_are_refused(n, table, message):
    with pytest.raises(ValueError, match=message):
        trailing(n, table)
