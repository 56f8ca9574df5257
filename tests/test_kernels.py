import math

import pytest
import torch
from mixture import Mixture
from scipy import stats

from vlgen.kernels import Gaussian, PFGMpp, kernel
from vlgen.tensors import generator

SEEDS = range(4000)
FINITE = [8.0, 128.0, 2048.0]
ALL = [Gaussian(), PFGMpp(math.inf), *map(PFGMpp, FINITE)]


@pytest.mark.parametrize("sigma", [1.0, 14.6, 0.3])
def test_infinite_D_is_the_gaussian_kernel_bit_for_bit(sigma):
    shape, seeds = (4, 8, 8), [0, 7, 2**40]
    assert torch.equal(PFGMpp(math.inf).noise(shape, sigma, seeds), Gaussian().noise(shape, sigma, seeds))
    assert torch.equal(PFGMpp(math.inf).scales(seeds), Gaussian().scales(seeds))


@pytest.mark.parametrize("D", FINITE)
def test_finite_D_multiplies_the_gaussian_noise_of_the_same_seed_by_one_scalar_per_image(D):
    shape, seeds = (3, 8, 8), range(16)
    noise, z = PFGMpp(D).noise(shape, 2.0, seeds), Gaussian().noise(shape, 2.0, seeds)
    s = PFGMpp(D).scales(seeds)
    assert len(set(s.tolist())) == len(seeds)
    # three float32 roundings of 6e-8 each
    torch.testing.assert_close(noise / s.reshape(-1, 1, 1, 1), z, rtol=2e-7, atol=0)


@pytest.mark.parametrize("k", ALL, ids=lambda k: k.name)
def test_image_k_does_not_depend_on_its_batch(k):
    batch = k.noise((1, 5, 6), 3.0, [11, 12, 13])
    assert batch.shape == (3, 1, 5, 6) and batch.dtype == torch.float32
    for i, seed in enumerate([11, 12, 13]):
        assert torch.equal(k.noise((1, 5, 6), 3.0, [seed])[0], batch[i])
    assert torch.equal(k.noise((1, 5, 6), 3.0, iter([11, 12, 13])), batch)
    assert k.scales(iter([11, 12, 13])).shape == (3,)


@pytest.mark.parametrize("D", FINITE)
def test_second_moment_of_the_scale_is_D_over_D_minus_2(D):
    square = PFGMpp(D).scales(SEEDS).double() ** 2
    # D / chi2 is inverse gamma: Var[s^2] = 2 D^2 / ((D - 2)^2 (D - 4))
    standard_error = math.sqrt(2 * D**2 / ((D - 2) ** 2 * (D - 4)) / len(SEEDS))
    assert abs(float(square.mean()) - D / (D - 2)) < 4 * standard_error


@pytest.mark.parametrize("D", FINITE)
def test_the_law_of_the_noise_is_the_multivariate_student_t(D):
    sigma = 3.0
    noise = PFGMpp(D).noise((1, 8, 8), sigma, SEEDS).double().flatten(1) / sigma
    # The draws are fixed by their seeds; a right law gives a p-value below 1e-3 once in a thousand sets of seeds.
    assert stats.kstest(noise[:, 0], stats.t(df=D).cdf).pvalue > 1e-3
    assert stats.kstest(D / PFGMpp(D).scales(SEEDS).double() ** 2, stats.chi2(D).cdf).pvalue > 1e-3
    # |t|^2 / N is F(N, D): true only when all pixels of an image share one s
    assert stats.kstest((noise**2).mean(1), stats.f(64, D).cdf).pvalue > 1e-3


def test_the_scale_has_a_random_stream_of_its_own():
    """Drawn from the stream of z it would depend on z, in a way that correlations do not show."""
    half = torch.tensor(4.0).double()
    for seed, s in enumerate(PFGMpp(8).scales(range(8)).tolist()):
        shared = 2 * torch._standard_gamma(half, generator=generator("noise", seed))
        assert s != pytest.approx(math.sqrt(8 / float(shared)), rel=1e-3)


def test_the_law_test_would_see_one_scale_per_pixel():
    z = Gaussian().noise((1, 8, 8), 1.0, SEEDS).double().flatten(1)
    per_pixel = PFGMpp(8).scales(range(z.numel() // 16)).repeat(16).reshape(z.shape)
    assert stats.kstest(((per_pixel * z) ** 2).mean(1), stats.f(64, 8).cdf).pvalue < 1e-6


def test_names_and_back():
    for name, D in [("gaussian", math.inf), ("pfgmpp:128", 128), ("pfgmpp:inf", math.inf), ("pfgmpp:12.5", 12.5)]:
        assert kernel(name).name == name and kernel(name).D == D
    assert kernel("gaussian") == Gaussian() and kernel("pfgmpp:1234567") == PFGMpp(1234567)
    assert PFGMpp(1234567).name == "pfgmpp:1234567"


@pytest.mark.parametrize("D", [7.999, 0, -128, math.nan, -math.inf])
def test_D_below_8_is_refused(D):
    with pytest.raises(ValueError, match=r"at least 8.*use 128"):
        PFGMpp(D)


@pytest.mark.parametrize("text", ["pfgmpp:abc", "pfgmpp", "pfgmpp:", "gauss", "gaussian:1", "", "PFGMPP:128"])
def test_unknown_kernels_are_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match=r'"gaussian".*"pfgmpp:128"'):
        kernel(text)


@pytest.mark.parametrize("text", ["pfgmpp:nan", "pfgmpp:4"])
def test_D_is_checked_by_name_too(text):
    with pytest.raises(ValueError, match="at least 8"):
        kernel(text)


# The oracle itself, against statements that share no line with it.

TWO = Mixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[1.0, -2.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 2.0]]).double().reshape(2, 1, 2, 2),
    torch.tensor([0.5, 0.8]).double(),
)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_the_gaussian_oracle_obeys_tweedie(sigma):
    """Karras et al. 2022, arXiv:2206.00364, eq. 3: denoise(x) = x + sigma^2 grad log p(x; sigma)."""
    level = torch.tensor(sigma).double()
    x = (TWO.sample(32, 0)[0] + sigma * Gaussian().noise((1, 2, 2), 1.0, range(32)).double()).requires_grad_()
    (score,) = torch.autograd.grad(TWO.log_density(x, level).sum(), x)
    # float64; sigma^2 = 400 multiplies the rounding of the score
    torch.testing.assert_close(TWO.denoiser()(x, level), x + level**2 * score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("D", [8, 128, 2048])
@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_the_pfgmpp_oracle_is_the_students_t_posterior_of_point_masses(D, sigma):
    """With stds 0, E[y | x] weighs the means by scipy's multivariate t density: no quadrature involved."""
    points = Mixture(TWO.weights, TWO.means, torch.zeros(2).double())
    x = points.sample(64, 1)[0] + PFGMpp(D).noise((1, 2, 2), sigma, range(64)).double()
    log_t = [
        torch.from_numpy(stats.multivariate_t(mean.flatten().numpy(), sigma**2, df=D).logpdf(x.flatten(1).numpy()))
        for mean in points.means
    ]
    log_joint = torch.stack(log_t, 1) + points.weights.log()
    exact = (log_joint.softmax(1) @ points.means.flatten(1)).reshape(x.shape)
    level = torch.tensor(sigma).double()
    # the quadrature leaves out tails of 1e-14
    torch.testing.assert_close(points.denoiser(D)(x, level), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(points.log_density(x, level, D), log_joint.logsumexp(1), rtol=0, atol=1e-9)


def test_the_pfgmpp_oracle_tends_to_the_gaussian_one_like_1_over_D():
    x, sigma = TWO.sample(64, 2)[0] * 2, torch.tensor(1.0).double()
    gap = [float((TWO.denoiser(D)(x, sigma) - TWO.denoiser()(x, sigma)).abs().max()) for D in (1e3, 1e4, 1e5)]
    # the first correction is Var[s] ~ 1 / (2 D), so that ten times D is a tenth of the gap up to the next order, 1 / D
    assert gap[0] > 1e-4
    assert gap[0] / gap[1] == pytest.approx(10, rel=0.05) and gap[1] / gap[2] == pytest.approx(10, rel=0.01)
