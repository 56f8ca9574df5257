"""Equality with diffusers' schedulers, where they have the same algorithm: the same noise and levels, every State.

diffusers keeps its levels and most of its arithmetic in float32: ten to twenty roundings of 6e-8, which a path may
widen some times over. Everything here is held to 1e-5.
"""

import math

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)
from test_solvers import THREE, TRAINED, start, table

from vlgen.schedules import trailing
from vlgen.solvers import (
    consistency,
    ddpm,
    deis,
    dpmpp_2m_sde,
    dpmpp_3m,
    euler,
    euler_ancestral,
    heun,
    ipndm,
    pc_ve,
    unipc,
)
from vlgen.tensors import counter, normal

SEEDS = [5, 6]
STEPS = 12


def noise(i, *words, shape=(1, 2, 2), seeds=SEEDS):
    """What our solvers draw at step i."""
    return normal(shape, [counter(seed, i, *words) for seed in seeds]).double()


def feed(monkeypatch, scheduler, draws):
    """Let diffusers draw our noise, in the order given."""
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    left = iter(draws)
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(left))


def epsilon(x, t):
    """The exact mixture as a network that predicts noise: X = alpha x at timestep t."""
    sigma = table()[int(t)]
    x = x.double() * (1 + sigma**2).sqrt()
    return (x - THREE.denoiser()(x, sigma)) / sigma


def preserved(scheduler, x, n=STEPS, sigmas=None):
    """The walk of a variance-preserving scheduler in our units: x / alpha after every step."""
    scheduler.set_timesteps(n)
    if hasattr(scheduler, "sigmas"):  # its third orders lose digits of float32 to cancellation
        scheduler.sigmas = scheduler.sigmas.double()
    sigmas = trailing(n, table()) if sigmas is None else sigmas
    x = x / (1 + float(sigmas[0]) ** 2) ** 0.5
    for t, below in zip(scheduler.timesteps, sigmas[1:].tolist(), strict=True):
        x = scheduler.step(epsilon(x, t), t, x).prev_sample
        yield x.double() * math.sqrt(1 + below**2)


def exploding(scheduler, x, n=STEPS):
    """The walk of a scheduler that keeps x itself: after every call of the network."""
    scheduler.set_timesteps(n)
    for t in scheduler.timesteps:
        x = scheduler.step(epsilon(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        yield x.double()


def same(ours, theirs, *, but=0, tolerance=1e-5):
    """All States agree, but for so many at the end."""
    ours, theirs = [state.x for state in ours], list(theirs)
    assert len(ours) == len(theirs) > but
    for i, (a, b) in enumerate(zip(ours[: len(ours) - but], theirs, strict=False)):
        assert float((a - b).norm() / b.norm()) < tolerance, f"step {i + 1}"


SIGMAS = trailing(STEPS, table())


def begin(sigmas=SIGMAS):
    return start(2, float(sigmas[0]))


@pytest.mark.parametrize(("v", "variance"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
def test_ddpm(monkeypatch, v, variance):
    scheduler = DDPMScheduler(**TRAINED, timestep_spacing="trailing", clip_sample=False, variance_type=variance)
    feed(monkeypatch, scheduler, [noise(i) for i in range(1, STEPS + 1)])
    # diffusers' last step here ends at 0 and still draws the large variance
    ours = ddpm(THREE.denoiser(), begin(), SIGMAS, v=v, seeds=SEEDS)
    same(ours, preserved(scheduler, begin()), but=1 if v else 0)


def test_euler_ancestral(monkeypatch):
    scheduler = EulerAncestralDiscreteScheduler(**TRAINED, timestep_spacing="trailing")
    feed(monkeypatch, scheduler, [noise(i) for i in range(1, STEPS + 1)])
    same(euler_ancestral(THREE.denoiser(), begin(), SIGMAS, seeds=SEEDS), exploding(scheduler, begin()))


def test_euler():
    scheduler = EulerDiscreteScheduler(**TRAINED, timestep_spacing="trailing")
    same(euler(THREE.denoiser(), begin(), SIGMAS), exploding(scheduler, begin()))


def test_heun():
    scheduler = HeunDiscreteScheduler(**TRAINED, timestep_spacing="trailing")
    theirs = [x for i, x in enumerate(exploding(scheduler, begin())) if i % 2 or i == 2 * STEPS - 2]
    same(heun(THREE.denoiser(), begin(), SIGMAS), theirs)


@pytest.mark.parametrize("kind", ["midpoint"])
def test_dpmpp_2m_sde(kind):
    scheduler = DPMSolverMultistepScheduler(
        **TRAINED,
        timestep_spacing="trailing",
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type=kind,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(STEPS)
    x, theirs = begin() / (1 + float(SIGMAS[0]) ** 2) ** 0.5, []
    for i, (t, below) in enumerate(zip(scheduler.timesteps, SIGMAS[1:].tolist(), strict=True), start=1):
        x = scheduler.step(epsilon(x, t), t, x, variance_noise=noise(i)).prev_sample
        theirs.append(x.double() * math.sqrt(1 + below**2))
    same(dpmpp_2m_sde(THREE.denoiser(), begin(), SIGMAS, seeds=SEEDS), theirs)


def third_order(**changed):
    return DPMSolverMultistepScheduler(
        **TRAINED,
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=3,
        lower_order_final=False,  # the last step alone is of first order, as it ends at 0
        final_sigmas_type="zero",
        **changed,
    )


def test_dpmpp_3m_with_half_the_curvature():
    same(dpmpp_3m(THREE.denoiser(), begin(), SIGMAS, curvature=0.5), preserved(third_order(), begin()))
    with pytest.raises(AssertionError, match="step 3"):  # the third step is the first that has a curvature
        same(dpmpp_3m(THREE.denoiser(), begin(), SIGMAS), preserved(third_order(), begin()))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order):
    scheduler = UniPCMultistepScheduler(
        **TRAINED,
        timestep_spacing="trailing",
        solver_order=order,
        solver_type="bh2",
        predict_x0=True,
        final_sigmas_type="zero",
    )
    same(unipc(THREE.denoiser(), begin(), SIGMAS, order=order), preserved(scheduler, begin()))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    """diffusers ends at the least trained level, and says nothing of 0."""
    scheduler = DEISMultistepScheduler(
        **TRAINED, timestep_spacing="trailing", solver_order=order, algorithm_type="deis", lower_order_final=False
    )
    levels = torch.cat([SIGMAS[:-1].double(), table()[:1]])
    ours = list(deis(THREE.denoiser(), begin(), torch.cat([levels, torch.zeros(1)]), order=order))
    same(ours[:-1], preserved(scheduler, begin(), sigmas=levels))


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_ipndm(last):
    """diffusers' fourth order, on our levels; its network predicts v. Its step to 0 takes four estimates."""
    sigma = SIGMAS.double()
    scheduler = IPNDMScheduler(trained_betas=(sigma / (1 + sigma**2).sqrt()).tolist())
    scheduler.set_timesteps(STEPS)
    x, theirs = begin() / (1 + sigma[0] ** 2).sqrt(), []
    for i, t in enumerate(scheduler.timesteps):
        alpha = 1 / (1 + sigma[i] ** 2).sqrt()
        x0 = THREE.denoiser()(x.double() / alpha, sigma[i])
        v = alpha * (x.double() / alpha - x0) / sigma[i] - alpha * sigma[i] * x0
        x = scheduler.step(v, t, x).prev_sample
        theirs.append(x.double() * (1 + sigma[i + 1] ** 2).sqrt())
    same(ipndm(THREE.denoiser(), begin(), SIGMAS, last=last), theirs, but=int(last != 4))
    if last != 4:
        with pytest.raises(AssertionError, match=f"step {STEPS}"):
            same(ipndm(THREE.denoiser(), begin(), SIGMAS, last=last), theirs)


def test_consistency_models(monkeypatch):
    scheduler = CMStochasticIterativeScheduler(num_train_timesteps=40, clip_denoised=False)
    scheduler.set_timesteps(timesteps=[39, 20, 9])
    sigmas = torch.cat([scheduler.sigmas[:-1], torch.zeros(1)])
    assert sigmas[0] == scheduler.sigmas[0] and float(scheduler.sigmas[-1]) == pytest.approx(0.002)

    def denoise(x, sigma):  # the boundary condition that their scheduler puts around the network
        data, lo = 0.5, 0.002
        skip, out = data**2 / ((sigma - lo) ** 2 + data**2), (sigma - lo) * data / (sigma**2 + data**2).sqrt()
        return skip * x + out * torch.sin(3 * x / (sigma**2 + data**2).sqrt())

    x = start(2, float(sigmas[0]))
    feed(monkeypatch, scheduler, [noise(i) for i in (1, 2, 3)])
    theirs, there = [], x
    for t in scheduler.timesteps:
        out = torch.sin(3 * scheduler.scale_model_input(there, t))
        there = scheduler.step(out, t, there).prev_sample
        theirs.append(there)
    same(consistency(denoise, x, sigmas, lo=0.002, seeds=SEEDS), theirs)


def test_latent_consistency_models(monkeypatch):
    scheduler = LCMScheduler(**TRAINED, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(4)
    levels = table()[scheduler.timesteps]
    sigmas = torch.cat([levels, torch.zeros(1)])

    def denoise(x, sigma):  # their skip connection, in x = X / alpha
        t = int((table() - sigma).abs().argmin())
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(t)
        return out * THREE.denoiser()(x, sigma) + skip * x / (1 + sigma**2).sqrt()

    x = start(2, float(sigmas[0]))
    feed(monkeypatch, scheduler, [noise(i) for i in (1, 2, 3)])
    there, theirs = x / (1 + levels[0] ** 2).sqrt(), []
    for t, below in zip(scheduler.timesteps, sigmas[1:], strict=True):
        there = scheduler.step(epsilon(there, t), t, there).prev_sample
        theirs.append(there.double() * (1 + below**2).sqrt())
    same(consistency(denoise, x, sigmas, seeds=SEEDS), theirs)


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_pc_ve(monkeypatch, corrections):
    """One image, as diffusers takes the mean of a batch's norms. Its corrector goes first, but not at the start."""
    n, seeds = 20, [5]
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=n, snr=0.16, sigma_min=0.05, sigma_max=20.0)
    scheduler.set_timesteps(n)
    scheduler.set_sigmas(n)
    levels = scheduler.discrete_sigmas.flip(0)
    sigmas = torch.cat([levels, torch.zeros(1)])
    x = start(1, float(levels[0]))
    draws = []
    for i in range(1, n + 1):
        if i > 1:
            draws += [noise(i - 1, j, seeds=seeds) for j in range(corrections)]
        draws.append(noise(i, seeds=seeds))
    feed(monkeypatch, scheduler, draws)

    def score(x, sigma):
        return (THREE.denoiser()(x, sigma) - x) / sigma**2

    there, theirs = x, []
    for i, (t, sigma) in enumerate(zip(scheduler.timesteps, levels.double(), strict=True)):
        for _ in range(corrections if i else 0):
            there = scheduler.step_correct(score(there, sigma), there).prev_sample.double()
        if i:
            theirs.append(there)
        step = scheduler.step_pred(score(there, sigma), t, there)
        there = step.prev_sample.double()
    theirs.append(step.prev_sample_mean.double())
    same(pc_ve(THREE.denoiser(), x, sigmas, corrections=corrections, seeds=seeds), theirs)
