import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from mixture import THREE, Mixture
from scipy import stats

from vlgen.kernels import Gaussian, PFGMpp
from vlgen.schedules import exponential, karras, trailing
from vlgen.solvers import SOLVERS, check_kernel, ddim, dpmpp_2m, euler, heun, nfe, samplers, solver
from vlgen.tensors import counter, normal

GAUSSIAN = Gaussian()
VARIANTS = ["ddim:0.5", "ddim:1", "ddpm:0.5", "heun:churn=10", "dpmpp_2m_sde:0.5", "dpmpp_3m:0.5", "unipc:1", "unipc:3"]
VARIANTS += ["deis:1", "ipndm:2", "langevin:each=2,step=0.5", "pc_ve:corrections=0", "pc_vp:0.1,corrections=2"]
NAMES = [*SOLVERS, *VARIANTS]
EVEN = [name for name in NAMES if not solver(name).adaptive]  # whose evaluations are known beforehand
STOCHASTIC = [name for name in NAMES if solver(name).stochastic]
DETERMINISTIC = [name for name in NAMES if not solver(name).stochastic]


def start(n, sigma, shape=(1, 2, 2), kernel=GAUSSIAN, first=0):
    return kernel.noise(shape, float(sigma), range(first, first + n)).double()


def last(states):
    *_, state = states
    return state.x


# Paths.


@pytest.mark.parametrize("name", [*(name for name in DETERMINISTIC if name != "rk45"), "rk45:1e-5"])
def test_one_gaussian_has_a_closed_form_path(name):
    """For data N(0, tau^2) the ODE is linear: x(sigma) = x(hi) sqrt((sigma^2 + tau^2) / (hi^2 + tau^2))."""
    tau, n = 0.7, 400
    single = Mixture(torch.ones(1).double(), torch.zeros(1, 1, 2, 2).double(), torch.tensor([tau]).double())
    x = start(8, 10.0)
    for state in solver(name)(single.denoiser(), x, exponential(n, 0.01, 10.0)):
        exact = x * math.sqrt((state.sigma**2 + tau**2) / (10.0**2 + tau**2))
        # h = 0.017 in log sigma; global error about h / 4 at order 1 and h^2 at order 2, and (lo / tau)^2 at the end
        h = math.log(1000) / n
        torch.testing.assert_close(state.x, exact, rtol=h / 2 if solver(name).order == 1 else 2 * h**2, atol=0)


# Samples.


@pytest.mark.parametrize(("name", "steps"), [("euler", 800), ("heun", 80), ("dpmpp_2m", 120)])
def test_samples_have_the_weights_means_and_spreads_of_the_mixture(name, steps):
    n, hi = 4000, 400.0  # at 400 the data's own mean moves the start by under 0.01 of its spread
    x = last(solver(name)(THREE.denoiser(), start(n, hi), karras(steps, 0.005, hi)))
    modes = THREE.nearest(x)
    for k, (weight, mean, std) in enumerate(zip(THREE.weights, THREE.means, THREE.stds, strict=True)):
        mode = x[modes == k]
        share, draws = len(mode) / n, mode.numel()
        # four standard errors each; the start's own share of 0.01 adds half of one to the weights
        assert abs(share - weight) < 4.5 * math.sqrt(weight * (1 - weight) / n)
        assert float((mode.mean(0) - mean).abs().max()) < 4 * std / math.sqrt(len(mode))
        # and 1 % for the discretisation, which is first order for Euler
        assert abs(float((mode - mean).square().mean().sqrt() / std) - 1) < 4 / math.sqrt(2 * draws) + 0.01


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_variance_of_stochastic_ddim_is_that_of_its_linear_recursion(eta):
    """Data N(0, 1): the estimate is x / (1 + sigma^2), so that each step maps one variance to the next."""
    single = Mixture(torch.ones(1).double(), torch.zeros(1, 1, 8, 8).double(), torch.ones(1).double())
    sigmas = karras(40, 0.05, 10.0)
    seeds = range(300)
    x = start(300, 10.0, (1, 8, 8))
    variance = 100.0
    for state in ddim(single.denoiser(), x, sigmas, eta=eta, seeds=seeds):
        sigma, below = float(sigmas[state.i - 1]), state.sigma
        fresh = (eta * below) ** 2 * (1 - (below / sigma) ** 2)
        c = 1 / (1 + sigma**2)
        variance *= (c + math.sqrt(below**2 - fresh) / sigma * (1 - c)) ** 2
        variance += fresh
        # four standard errors of the variance of 300 * 64 normal values
        assert float(state.x.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / (300 * 64)))


# Equality with diffusers, on a real network.

TRAINED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        .double()
        .eval()
    )


def text():
    return normal((5, 8), range(2), purpose="text").double()


def table():
    alphas = DDIMScheduler(**TRAINED).alphas_cumprod.double()
    return ((1 - alphas) / alphas).sqrt()


def in_sigma(unet, prediction):
    """The network as a denoiser of x / alpha."""

    def denoise(x, sigma):
        t = int((table() - sigma).abs().argmin())
        assert float(table()[t]) == pytest.approx(float(sigma), rel=1e-6)
        out = unet(x / (1 + sigma**2).sqrt(), t, text()).sample
        if prediction == "epsilon":
            return x - sigma * out
        return out if prediction == "sample" else x / (1 + sigma**2) - out * sigma / (1 + sigma**2).sqrt()

    return denoise


def by_diffusers(scheduler, unet, x, step):
    """The scheduler's own loop, from the same start in its own coordinates; alpha is 1 at the end."""
    scheduler.set_timesteps(10)
    x = x / (1 + table()[scheduler.timesteps[0]] ** 2).sqrt()
    for i, t in enumerate(scheduler.timesteps, start=1):
        x = step(i, unet(x, t, text()).sample, t, x)
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_ddim_is_that_of_diffusers(unet, prediction, eta):
    scheduler = DDIMScheduler(
        **TRAINED, prediction_type=prediction, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    sigmas, seeds = trailing(10, table()), [5, 6]
    x = start(2, sigmas[0], (4, 8, 8))

    def step(i, out, t, x):
        z = normal((4, 8, 8), [counter(seed, i) for seed in seeds]).double()
        return scheduler.step(out, t, x, eta=eta, variance_noise=z if eta else None).prev_sample

    ours = last(ddim(in_sigma(unet, prediction), x, sigmas, eta=eta, seeds=seeds))
    theirs = by_diffusers(scheduler, unet, x, step)
    # sigmas are rounded to float32, 6e-8, and diffusers keeps its alphas in float32
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6


@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_dpmpp_2m_is_that_of_diffusers(unet, prediction):
    scheduler = DPMSolverMultistepScheduler(
        **TRAINED,
        prediction_type=prediction,
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    sigmas = trailing(10, table())
    x = start(2, sigmas[0], (4, 8, 8))
    ours = last(dpmpp_2m(in_sigma(unet, prediction), x, sigmas))
    theirs = by_diffusers(scheduler, unet, x, lambda i, out, t, x: scheduler.step(out, t, x).prev_sample)
    # diffusers does each step of this solver in float32: ten roundings of 6e-8, enlarged by the network's own slope
    assert float((ours - theirs).norm() / theirs.norm()) < 5e-6


# Laws.


def test_ddim_without_eta_is_euler_bit_for_bit():
    x, sigmas = start(4, 10.0), karras(12, 0.03, 10.0)
    assert torch.equal(last(ddim(THREE.denoiser(), x, sigmas)), last(euler(THREE.denoiser(), x, sigmas)))
    assert not torch.equal(
        last(ddim(THREE.denoiser(), x, sigmas, eta=0.1, seeds=range(4))), last(euler(THREE.denoiser(), x, sigmas))
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_states_tell_the_walk_and_the_evaluations(name, steps):
    sigmas = karras(steps, 0.03, 10.0)
    asked = []

    def denoise(x, sigma):
        assert sigma.shape == () and sigma.dtype == x.dtype
        asked.append(float(sigma))
        estimates.append(THREE.denoiser()(x, sigma))
        return estimates[-1]

    estimates = []
    x = start(3, 10.0)
    for i, state in enumerate(solver(name)(denoise, x, sigmas, seeds=range(3)), start=1):
        assert (state.i, state.sigma, state.nfe) == (i, float(sigmas[i]), len(asked))
        assert state.x.shape == state.x0.shape == x.shape
        assert torch.equal(state.x0, estimates[-1])
    assert i == steps
    assert torch.equal(state.x, estimates[-1])  # the step to 0 is the estimate itself
    if solver(name).adaptive:
        assert len(asked) >= nfe(name, steps) == (7 if steps > 1 else 1)
        assert asked[0] == sigmas[0] and asked[-1] == sigmas[-2]
    else:
        assert len(asked) == nfe(name, steps) == solver(name).nfe(steps)
        assert asked == solver(name).levels(sigmas)
        assert max(asked) <= float(sigmas[0])  # above the start a network need not know its way


def test_evaluations_per_step():
    assert [nfe(name, 18) for name in ("euler", "ddim", "heun", "dpmpp_2m")] == [18, 18, 35, 18]
    assert [nfe(name, 18) for name in ("unipc", "deis", "langevin:3", "pc_ve:corrections=2")] == [18, 18, 52, 52]


def test_where_the_evaluations_lie():
    sigmas = torch.tensor([8.0, 4.0, 2.0, 0.0])
    assert solver("euler").levels(sigmas) == solver("unipc").levels(sigmas) == [8, 4, 2]
    assert solver("heun").levels(sigmas) == [8, 4, 4, 2, 2]
    assert solver("langevin:2").levels(sigmas) == [4, 4, 2, 2, 2]
    assert solver("pc_vp").levels(sigmas) == [8, 4, 4, 2, 2]
    # raised by a third, but for the first, which has no room above it
    assert solver("heun:churn=1").levels(sigmas) == pytest.approx([8, 4, 4 * 4 / 3, 2, 2 * 4 / 3])
    assert solver("heun:churn=1,tmin=3").levels(sigmas) == pytest.approx([8, 4, 4 * 4 / 3, 2, 2])


@pytest.mark.parametrize("name", EVEN)
def test_a_solver_takes_nothing_before_it_is_asked(name):
    asked = []

    def denoise(x, sigma):
        asked.append(1)
        return x * 0

    walk = solver(name)(denoise, start(2, 10.0), karras(6, 0.03, 10.0), seeds=range(2))
    assert not asked
    assert next(walk).i == 1 and len(asked) == solver(name).evaluations


@pytest.mark.parametrize("name", EVEN)
def test_image_k_of_a_batch_is_image_k_alone(name):
    sigmas = karras(9, 0.03, 10.0)
    batch = last(solver(name)(THREE.denoiser(), start(5, 10.0), sigmas, seeds=range(5)))
    for k in range(5):
        alone = last(solver(name)(THREE.denoiser(), start(1, 10.0, first=k), sigmas, seeds=[k]))
        # float64; matrix products of other sizes sum in another order
        torch.testing.assert_close(alone[0], batch[k], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("given", "kept"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_the_state_is_never_below_float32(name, given, kept):
    def denoise(x, sigma):
        assert x.dtype == sigma.dtype == getattr(torch, kept)
        return (x / (1 + sigma**2)).half()  # a half-precision network

    x = start(2, 10.0).to(getattr(torch, given))
    for state in solver(name)(denoise, x, karras(4, 0.03, 10.0), seeds=range(2)):
        assert state.x.dtype == state.x0.dtype == getattr(torch, kept)


# PFGM++: the kernel and the denoiser belong together.


def within_mode(D_prior, D_denoiser):
    """Root mean square distance of each sample to its mode, in units of the mode's std. (256,)"""
    modes = torch.full((2, 1, 16, 16), 0.5).double() * torch.tensor([1.0, -1.0]).double().reshape(2, 1, 1, 1)
    mixture = Mixture(torch.tensor([0.5, 0.5]).double(), modes, torch.tensor([0.2, 0.2]).double())
    prior = PFGMpp(D_prior)
    x = start(256, 80.0, (1, 16, 16), prior)
    x = last(heun(mixture.denoiser(D_denoiser), x, karras(60, 0.01, 80.0)))
    return (x - modes[mixture.nearest(x)]).flatten(1).square().mean(1).sqrt() / 0.2, prior.scales(range(256)).double()


# 256 times the squared distance is chi2_256, so the distance has mean 1 - 1 / 1024 and this spread
SPREAD = math.sqrt(1 - (1 - 1 / 1024) ** 2)
ERROR = SPREAD / math.sqrt(2 * 255)  # standard error of the spread over 256 images


@pytest.mark.parametrize("D", [8, 128])
def test_the_pfgmpp_denoiser_gives_the_right_spread_from_its_own_prior(D):
    distance, _ = within_mode(D, D)
    assert abs(float(distance.std()) - SPREAD) < 4 * ERROR
    # 4 standard errors of the mean, and 0.002 = (0.01 / 0.2)^2 for stopping at sigma 0.01
    assert abs(float(distance.mean()) - 1) < 4 * SPREAD / 16 + 0.002
    # the whole law; the seeds are fixed, and a right law fails once in a thousand sets of them
    assert stats.kstest(256 * distance**2, stats.chi2(256).cdf).pvalue > 1e-3


@pytest.mark.parametrize("D", [8, 128])
def test_the_gaussian_denoiser_does_not(D):
    """The case that must fail: the network takes s for contrast and hands it on."""
    distance, s = within_mode(D, math.inf)
    assert abs(float(distance.std()) - SPREAD) > 6 * ERROR
    assert stats.kstest(256 * distance**2, stats.chi2(256).cdf).pvalue < 1e-4
    # output = s times the Gaussian sampler's, whose own spread is SPREAD
    jitter = float(s.std() / s.mean())
    assert float(torch.corrcoef(torch.stack([distance, s]))[0, 1]) > 0.9 * jitter / math.hypot(jitter, SPREAD)


def test_the_pfgmpp_walk_tends_to_the_gaussian_one():
    x, sigmas = start(8, 20.0), karras(20, 0.03, 20.0)
    gaussian = last(heun(THREE.denoiser(), x, sigmas))
    gap = [float((last(heun(THREE.denoiser(D), x, sigmas)) - gaussian).norm()) for D in (1e3, 1e5, 1e7)]
    # first correction 1 / (2 D), so a hundred times D is a hundredth of the gap, up to the next order
    assert gap[0] > 1e-3
    assert gap[0] / gap[1] == pytest.approx(100, rel=0.1) and gap[1] / gap[2] == pytest.approx(100, rel=0.1)


# What is refused.


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_values_that_are_not_finite_stop_the_walk_and_name_the_step(name, bad, at):
    steps = 0

    def denoise(x, sigma):
        x0 = THREE.denoiser()(x, sigma)
        if steps == at - 1:
            x0[1, 0, 0, 0] = bad  # one pixel of one image
        return x0

    sigmas = karras(5, 0.03, 10.0)
    with pytest.raises(
        FloatingPointError, match=rf"step {at} of 5, from sigma {float(sigmas[at - 1]):g} to {float(sigmas[at]):g}"
    ):
        for _ in solver(name)(denoise, start(3, 10.0), sigmas, seeds=range(3)):
            steps += 1
    assert steps == at - 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sigmas",
    [
        [0.0],
        [],
        [2.0, 1.0],
        [1.0, 2.0, 0.0],
        [1.0, 1.0, 0.0],
        [1.0, 0.0, -1.0],
        [math.nan, 1.0, 0.0],
        [2.0, math.nan, 0.0],
        [[2.0, 0.0]],
        0.0,
    ],
)
def test_sigmas_that_do_not_decrease_to_0_are_refused(name, sigmas):
    with pytest.raises(ValueError, match="strictly decreasing values that ends with 0"):
        next(solver(name)(THREE.denoiser(), start(2, 1.0), torch.tensor(sigmas), seeds=range(2)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_not_finite_is_refused(name, bad):
    x = start(2, 1.0)
    x[1, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="must be finite"):
        next(solver(name)(THREE.denoiser(), x, karras(3, 0.1, 1.0), seeds=range(2)))
    with pytest.raises(ValueError, match="must be finite"):
        next(solver(name)(THREE.denoiser(), start(2, 1.0), torch.tensor([math.inf, 1.0, 0.0]), seeds=range(2)))


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("seeds", [None, [1], [1, 2, 3]])
def test_stochastic_solvers_want_one_seed_per_image(name, seeds):
    with pytest.raises(ValueError, match="pass one each"):
        next(solver(name)(THREE.denoiser(), start(2, 1.0), karras(3, 0.1, 1.0), seeds=seeds))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_other_seeds_draw_other_noise_and_every_step_its_own(name):
    """Noise of an image that hears nothing else: the denoiser answers 0."""
    x, sigmas = torch.zeros(2, 1, 8, 8), torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    steps = [state.x for state in solver(name)(lambda x, sigma: x * 0, x, sigmas, seeds=[0, 1])][:-1]
    for state in steps[1:]:  # with churn the first step has no room above it
        assert float(state.std()) > 0 and not torch.equal(state[0], state[1])
    noise = [steps[1], steps[2] - steps[1] * float((steps[1] * steps[2]).sum() / steps[1].square().sum())]
    assert float(noise[1].std()) > 0.1 * float(noise[0].std())  # the third step is no multiple of the second
    again = [state.x for state in solver(name)(lambda x, sigma: x * 0, x, sigmas, seeds=[0, 1])]
    assert all(torch.equal(a, b) for a, b in zip(steps, again, strict=False))


# What is what by name.


@pytest.mark.parametrize(
    "name",
    [
        "ddim:-0.1",
        "ddim:1.1",
        "ddim:nan",
        "ddpm:2",
        "heun:-1",
        "heun:noise=3",
        "dpmpp_2m_sde:2",
        "dpmpp_3m:2",
        "unipc:0",
        "unipc:4",
        "unipc:2.5",
        "deis:5",
        "ipndm:5",
        "ipndm:0",
        "langevin:0",
        "langevin:step=0",
        "langevin:inf",
        "pc_ve:0",
        "pc_vp:corrections=-1",
        "rk45:0",
        "rk45:1",
        "consistency:-1",
    ],
)
def test_options_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f" was given to {name.partition(':')[0]}: use "):
        solver(name)


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("ddim", {"eta": 1.1}),
        ("heun", {"churn": -1.0}),
        ("unipc", {"order": 4}),
        ("rk45", {"tol": math.nan}),
        ("deis", {"order": 0}),
        ("ipndm", {"order": 5}),
        ("dpmpp_3m", {"curvature": 2.0}),
        ("pc_ve", {"snr": 0.0}),
        ("langevin", {"each": 0}),
        ("ddpm", {"v": -1.0}),
        ("consistency", {"lo": -1.0}),
        ("pc_vp", {"snr": 2.0}),
        ("euler_ancestral", {"eta": 2.0}),
        ("dpmpp_2m_sde", {"eta": -1.0}),
    ],
)
def test_options_out_of_range_are_refused_by_the_functions_too(family, given):
    more = {"seeds": [0, 1]} if family not in ("unipc", "rk45", "deis", "ipndm", "dpmpp_3m") else {}
    with pytest.raises(ValueError, match="was given to"):
        next(SOLVERS[family].run(THREE.denoiser(), start(2, 1.0), karras(3, 0.1, 1.0), **given, **more))


@pytest.mark.parametrize(
    "name",
    [
        "ddim:",
        "ddim:x",
        "ddim:0.5,0.5",
        "ddim:eta=",
        "ddim:rho=1",
        "ddim:eta=0.5=1",
        "euler:1",
        "dpmpp_2m:2",
        "heun:churn=1,churn=2",
        "heun:churn",
        "heun:=3",
        "unipc:2,",
    ],
)
def test_options_that_are_not_known_are_refused_with_those_that_are(name):
    family = name.partition(":")[0]
    with pytest.raises(ValueError, match=f'was given to solver {family}: use "{family}'):
        solver(name)


@pytest.mark.parametrize("name", ["", "magic", ":0.5", "Euler", "ddim 0.5", "heun;churn=1"])
def test_unknown_solvers_are_refused_with_the_names(name):
    with pytest.raises(ValueError, match=r"is unknown: use one of euler, ddim, .*consistency"):
        solver(name)


def test_solvers_by_name():
    assert [each.name for each in SOLVERS.values()] == list(SOLVERS)
    drawn = {each.name for each in SOLVERS.values() if each.stochastic}
    assert drawn == {"ddpm", "euler_ancestral", "dpmpp_2m_sde", "langevin", "pc_ve", "pc_vp", "consistency"}
    assert solver("ddim:0.5").stochastic and not solver("ddim:0").stochastic
    assert solver("heun:churn=1").stochastic and not solver("heun:noise=1.1").stochastic
    assert not solver("euler_ancestral:0").stochastic and not solver("dpmpp_2m_sde:eta=0").stochastic
    assert [solver(f"ipndm:{k}").order for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [solver(f"unipc:{k}").order for k in (1, 2, 3)] == [2, 3, 3]
    x, sigmas = start(2, 1.0), karras(3, 0.1, 1.0)
    by_hand = last(ddim(THREE.denoiser(), x, sigmas, eta=0.5, seeds=[3, 4]))
    for name in ("ddim:0.5", "ddim:eta=0.5", "ddim: eta = 5e-1"):
        assert torch.equal(last(solver(name)(THREE.denoiser(), x, sigmas, seeds=[3, 4])), by_hand)
    by_hand = last(heun(THREE.denoiser(), x, sigmas, churn=2.0, noise=1.01, seeds=[3, 4]))
    for name in ("heun:2,noise=1.01", "heun:noise=1.01,churn=2"):
        assert torch.equal(last(solver(name)(THREE.denoiser(), x, sigmas, seeds=[3, 4])), by_hand)


def test_samplers_lists_what_is_known():
    rows = samplers()
    assert [row["name"] for row in rows] == list(SOLVERS) and len(rows) == 16
    for row in rows:
        assert list(row) == ["name", "order", "evaluations", "stochastic", "kernels", "options", "paper"]
        assert row["kernels"] == ("gaussian" if row["stochastic"] else "gaussian, pfgmpp")
        assert "arXiv:" in row["paper"] or "doi:" in row["paper"]
        if row["options"]:  # as listed they are read back, and are the defaults
            same = solver(f"{row['name']}:{row['options']}")
            assert (same.order, same.evaluations, same.stochastic) == (
                row["order"],
                row["evaluations"],
                row["stochastic"],
            )
    table = {row["name"]: (row["order"], row["evaluations"]) for row in rows}
    assert table["heun"] == (2, 2) and table["dpmpp_3m"] == (3, 1) and table["langevin"] == (0, 5)


# Some are others.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ddim", "euler"),
        ("ddim:1", "euler_ancestral"),
        ("euler_ancestral:0", "euler"),
        ("dpmpp_2m_sde:0", "dpmpp_2m"),
        ("ipndm:1", "euler"),
        ("ddpm", "euler_ancestral"),
        ("deis:1", "euler"),
        ("dpmpp_3m:1", "dpmpp_3m"),
    ],
)
def test_two_names_of_one_algorithm_agree(one, other):
    x, sigmas = start(3, 10.0), karras(12, 0.03, 10.0)
    a, b = (last(solver(name)(THREE.denoiser(), x, sigmas, seeds=range(3))) for name in (one, other))
    # the same sums in another order, in float64
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_last_step_of_ipndm_may_look_further_back_than_the_others():
    """In the past that it needs, and with the weights of that many: the step to 0 written out by hand."""
    sigmas, x = karras(5, 0.3, 10.0), start(3, 10.0)
    walked = list(solver("ipndm:2")(THREE.denoiser(), x, sigmas))
    places = [x, *(state.x for state in walked)]
    eps = [(places[i] - walked[i].x0) / float(sigmas[i]) for i in range(5)]
    weights = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    for last_step, parts in weights.items():
        step = sum(weight * eps[4 - j] for j, weight in enumerate(parts))
        found = last(solver(f"ipndm:2,last={last_step}")(THREE.denoiser(), x, sigmas))
        torch.testing.assert_close(found, places[4] - float(sigmas[4]) * step, rtol=1e-12, atol=1e-12)


def test_stochastic_solvers_are_refused_under_finite_D():
    with pytest.raises(
        ValueError, match=r"'ddim:0.5'.*erases.*'pfgmpp:128'.*deterministic solver \(euler, ddim, heun,"
    ):
        check_kernel(solver("ddim:0.5"), PFGMpp(128))
    for name in STOCHASTIC:
        with pytest.raises(ValueError, match="erases"):
            check_kernel(solver(name), PFGMpp(2048))
        check_kernel(solver(name), Gaussian())
        check_kernel(solver(name), PFGMpp(math.inf))
    for name in DETERMINISTIC:
        check_kernel(solver(name), PFGMpp(8))
