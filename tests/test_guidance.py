import math

import pytest
import torch
from mixture import Mixture

from vlgen.guidance import cfg, cfg_batched, interval, rescaled
from vlgen.kernels import Gaussian
from vlgen.schedules import karras
from vlgen.solvers import heun

MEANS = Gaussian().noise((2, 3, 3), 1.0, range(2)).double()
BOTH = Mixture(torch.tensor([0.4, 0.6]).double(), MEANS, torch.tensor([0.3, 0.5]).double())
ONE = Mixture(torch.ones(1).double(), MEANS[:1], torch.tensor([0.3]).double())
text, plain = ONE.denoiser(), BOTH.denoiser()
X = Gaussian().noise((2, 3, 3), 1.5, range(4)).double()
SIGMA = torch.tensor(1.2).double()


def never(x, sigma):
    raise AssertionError("this half must not be evaluated")


def pair(x, sigma):
    return text(x, sigma), plain(x, sigma)


def std(x):
    return x.flatten(1).std(1)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_scale_1_is_the_text_alone_and_asks_for_nothing_else(phi):
    assert torch.equal(cfg(text, never, 1.0, rescale=phi)(X, SIGMA), text(X, SIGMA))


def test_scale_1_in_one_batch_is_the_text_too():
    # float64: p + (t - p) rounds twice
    torch.testing.assert_close(cfg_batched(pair, 1.0)(X, SIGMA), text(X, SIGMA), rtol=1e-12, atol=1e-14)


def test_scale_0_is_without_text():
    assert torch.equal(cfg(text, plain, 0.0)(X, SIGMA), plain(X, SIGMA))


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_guidance_moves_from_without_towards_the_text_in_proportion(scale):
    moved = cfg(text, plain, scale)(X, SIGMA) - plain(X, SIGMA)
    assert float(moved.abs().max()) > 0.1
    # float64 rounding
    torch.testing.assert_close(moved, scale * text(X, SIGMA) - scale * plain(X, SIGMA), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0])
def test_one_call_or_two_are_the_same(phi):
    assert torch.equal(cfg_batched(pair, 4.0, rescale=phi)(X, SIGMA), cfg(text, plain, 4.0, rescale=phi)(X, SIGMA))


def test_guidance_is_linear_in_epsilon_as_ho_and_salimans_write_it():
    """arXiv:2207.12598, eq. 6: eps = (1 + w) eps_text - w eps_plain, with scale = 1 + w."""
    w = 3.0
    eps_text, eps_plain = (X - text(X, SIGMA)) / SIGMA, (X - plain(X, SIGMA)) / SIGMA
    eps = (X - cfg(text, plain, 1 + w)(X, SIGMA)) / SIGMA
    # float64 rounding, enlarged by the scale
    torch.testing.assert_close(eps, (1 + w) * eps_text - w * eps_plain, rtol=1e-11, atol=1e-12)


def test_rescale_1_gives_each_image_the_contrast_of_its_text_estimate():
    free, full = cfg(text, plain, 6.0)(X, SIGMA), cfg(text, plain, 6.0, rescale=1.0)(X, SIGMA)
    target = std(text(X, SIGMA))
    assert int(((std(free) / target - 1).abs() > 0.05).sum()) >= 3  # of 4 images had something to set back
    torch.testing.assert_close(std(full), target, rtol=1e-12, atol=0)  # float64 rounding
    # a pure scaling: one factor per image
    ratio = (full / free).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)


def test_rescale_in_between_is_the_straight_line():
    """Lin et al. 2023, arXiv:2305.08891, section 3.4: phi * rescaled + (1 - phi) * guided."""
    free, full = cfg(text, plain, 6.0)(X, SIGMA), cfg(text, plain, 6.0, rescale=1.0)(X, SIGMA)
    part = cfg(text, plain, 6.0, rescale=0.7)(X, SIGMA)
    torch.testing.assert_close(part, 0.7 * full + 0.3 * free, rtol=1e-12, atol=1e-13)  # float64 rounding
    assert torch.equal(rescaled(free, text(X, SIGMA), 0.0), free)


def test_without_rescale_an_image_of_no_contrast_is_let_through():
    flat = torch.zeros_like(X)  # its std is 0, and nothing may be divided by it
    assert torch.equal(cfg(lambda x, sigma: flat, lambda x, sigma: flat, 3.0)(X, SIGMA), flat)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0, 2.1])
def test_the_interval_switches_at_its_ends(sigma):
    inside = 0.5 <= sigma <= 2.0
    denoise = interval(text if inside else never, never if inside else plain, lo=0.5, hi=2.0)
    level = torch.tensor(sigma).double()
    assert torch.equal(denoise(X, level), (text if inside else plain)(X, level))


def test_open_intervals():
    assert torch.equal(interval(text, never, 0.0, math.inf)(X, SIGMA), text(X, SIGMA))


@pytest.mark.parametrize(
    "denoise",
    [cfg(text, plain, 5.0), cfg(text, plain, 5.0, rescale=0.7), cfg_batched(pair, 5.0, rescale=1.0),
     interval(cfg(text, plain, 3.0, rescale=0.5), plain, 0.5, 2.0)],
)  # fmt: skip
def test_image_k_does_not_depend_on_its_batch(denoise):
    batch = denoise(X, SIGMA)
    for k in range(len(X)):
        # float64; matrix products of other sizes sum in another order
        torch.testing.assert_close(denoise(X[k : k + 1], SIGMA)[0], batch[k], rtol=1e-11, atol=1e-12)


def test_guided_samples_lie_nearer_to_the_text():
    start, sigmas = Gaussian().noise((2, 3, 3), 40.0, range(64)).double(), karras(30, 0.02, 40.0)

    def share(denoise):
        *_, end = heun(denoise, start, sigmas)
        return float((BOTH.nearest(end.x) == 0).double().mean())

    free = share(plain)
    assert abs(free - 0.4) < 4 * math.sqrt(0.4 * 0.6 / 64)  # four standard errors
    assert share(cfg(text, plain, 0.5)) > free
    assert share(cfg(text, plain, 2.0)) == 1.0


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_wrong_scales_are_refused(scale):
    for make in (lambda: cfg(text, plain, scale), lambda: cfg_batched(pair, scale)):
        with pytest.raises(ValueError, match="guidance scale"):
            make()


@pytest.mark.parametrize("phi", [math.nan, -0.1, 1.1])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_wrong_rescales_are_refused(phi, scale):
    for make in (lambda: cfg(text, plain, scale, rescale=phi), lambda: cfg_batched(pair, scale, rescale=phi)):
        with pytest.raises(ValueError, match="guidance rescale"):
            make()


@pytest.mark.parametrize(("lo", "hi"), [(2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)])
def test_wrong_intervals_are_refused(lo, hi):
    with pytest.raises(ValueError, match="0 <= lo <= hi"):
        interval(text, plain, lo, hi)
