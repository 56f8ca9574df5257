"""How fast the error falls, and that every path is the probability-flow ODE's own, under both kernels."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from test_solvers import DETERMINISTIC, THREE, last, start

from vlgen.kernels import Gaussian, PFGMpp
from vlgen.schedules import karras
from vlgen.solvers import heun, solver

TAU = 0.7


def linear(x, sigma):
    """The denoiser of data N(0, TAU^2), whose ODE has the solution x ~ sqrt(sigma^2 + TAU^2)."""
    return x * TAU**2 / (TAU**2 + sigma**2)


def slow_start(n, lo, hi):
    """Levels whose steps in log sigma grow from 1 / n^2: the low orders of a multistep solver's start are lost."""
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.cat([hi * (lo / hi) ** (t**2), torch.zeros(1, dtype=torch.float64)])


def even(n, lo, hi):
    return torch.cat([torch.linspace(hi, lo, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


def error(name, sigmas):
    """Of the result on the linear problem, whose step to 0 is exact up to the denoiser."""
    lo, hi = float(sigmas[-2]), float(sigmas[0])
    x = torch.full((1, 1, 1, 1), hi, dtype=torch.float64)
    exact = linear(x * math.sqrt((lo**2 + TAU**2) / (hi**2 + TAU**2)), lo)
    return float((last(solver(name)(linear, x, sigmas)) - exact).abs())


def slope(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


NAMES = ["euler", "ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde:0", "dpmpp_3m", "dpmpp_3m:0.5", "unipc:1", "unipc:2"]
NAMES += ["unipc:3", "deis:1", "deis:2", "deis:3", "deis:4"]


@pytest.mark.parametrize("name", NAMES)
def test_the_global_error_falls_with_the_promised_order(name):
    # at order 4 the errors end at 4e-10, well above rounding; coarser steps still carry the next order
    steps = [160, 320, 640]
    errors = [error(name, slow_start(n, 0.1, 20.0)) for n in steps]
    assert slope(errors, steps) == pytest.approx(solver(name).order, abs=0.25)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_has_its_order_on_even_levels(order):
    steps = [640, 1280]
    errors = [error(f"ipndm:{order}", even(n, 1.0, 20.0)) for n in steps]
    # the start is of first order, where the path is straight; its share bends the line by 0.08 at order 4
    assert slope(errors, steps) == pytest.approx(solver(f"ipndm:{order}").order, abs=0.2)


def test_half_the_curvature_costs_dpmpp_3m_its_order():
    """The case that must fail: what the released code of DPM-Solver++ takes is second order."""
    full, half = (error(name, slow_start(640, 0.1, 20.0)) for name in ("dpmpp_3m", "dpmpp_3m:0.5"))
    assert half > 20 * full


# Paths on the mixture, whose denoiser is anything but linear.

HI, LO = 20.0, 0.02
KERNELS = {"gaussian": Gaussian(), "pfgmpp:16": PFGMpp(16)}


@pytest.fixture(scope="module", params=KERNELS)
def problem(request):
    """A start, the exact denoiser and the results of 400 steps of Heun, under one kernel."""
    kernel = KERNELS[request.param]
    denoise = THREE.denoiser(kernel.D, nodes=60)
    x = start(6, HI, kernel=kernel)
    return kernel, denoise, x, last(heun(denoise, x, karras(400, LO, HI).double()))


def test_400_steps_of_heun_are_the_ode(problem):
    """Against scipy's eighth-order Runge-Kutta solver, which shares nothing with ours."""
    _, denoise, x, reference = problem

    def slope(place, flat):
        x_there = torch.from_numpy(flat).reshape(x.shape)
        return (denoise(x_there, torch.tensor(math.exp(-place)).double()) - x_there).flatten().numpy()

    ends = -math.log(HI), -math.log(LO)
    found = solve_ivp(slope, ends, x.flatten().numpy(), method="DOP853", rtol=1e-8, atol=1e-8)
    exact = denoise(torch.from_numpy(found.y[:, -1]).reshape(x.shape), torch.tensor(LO).double())
    # second order: 60 steps leave 1e-2, so 400 leave a fortieth of that; scipy's own error is below 1e-7
    assert distance(reference, exact) < 3e-4


def distance(a, b):
    """Root mean square over all pixels; the data's spread is 1.3."""
    return float((a - b).square().mean().sqrt())


# 60 steps; each bound is about twice what the worst solver of its order was found to leave, under either kernel
BOUNDS = {1: 0.06, 2: 0.012, 3: 0.0025, 4: 0.0006}


@pytest.mark.parametrize("name", [*(name for name in DETERMINISTIC if name != "rk45"), "deis:2", "deis:4", "ipndm:3"])
def test_every_deterministic_path_is_that_of_400_steps_of_heun(problem, name):
    kernel, denoise, x, reference = problem
    assert solver(name).kernels == "gaussian, pfgmpp"
    found = distance(last(solver(name)(denoise, x, karras(60, LO, HI))), reference)
    print(kernel.name, name, f"{found:.1e}")
    assert found < BOUNDS[solver(name).order]


def test_the_bounds_tell_the_orders_apart(problem):
    """What must fail: no walk may pass as one of the next order."""
    _, denoise, x, reference = problem
    for name, order in (("euler", 2), ("dpmpp_2m", 3), ("deis:3", 4)):
        assert distance(last(solver(name)(denoise, x, karras(60, LO, HI))), reference) > BOUNDS[order]
    _, denoise, x, _ = problem
    other = THREE.denoiser(64.0, nodes=60)  # the denoiser of neither kernel
    assert distance(last(solver("dpmpp_3m")(other, x, karras(60, LO, HI))), reference) > BOUNDS[2]


# The adaptive one.


@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7])
def test_rk45_holds_its_tolerance_and_pays_for_it(problem, tol):
    _, denoise, x, _ = problem
    sigmas = karras(30, LO, HI).double()
    fine = list(solver("rk45:1e-8")(denoise, x, sigmas))
    states = list(solver(f"rk45:{tol}")(denoise, x, sigmas))
    # local errors of tol add up over some twenty steps, and modes that part widen them
    assert distance(states[-1].x, fine[-1].x) < 30 * tol
    assert distance(states[-1].x, fine[-1].x) > tol / 1000  # it does not do far more than it is asked
    assert states[-1].nfe < fine[-1].nfe
    assert (states[-1].nfe - 1) % 6 == 0 and states[-1].nfe == states[-2].nfe  # the last step asks nothing new
    if tol == 1e-3:  # the levels between are read off: steps are few
        assert states[-1].nfe < 200


def test_rk45_passes_through_the_levels_between(problem):
    _, denoise, x, _ = problem
    sigmas = karras(12, LO, HI).double()
    fine = solver("rk45:1e-8")(denoise, x, sigmas)
    for coarse, exact in zip(solver("rk45:1e-4")(denoise, x, sigmas), fine, strict=True):
        assert coarse.sigma == exact.sigma
        # 1e-4 is the local error at steps' ends; the cubic between them is of fourth order, relative to the noise there
        assert distance(coarse.x, exact.x) < 5e-3 * (1 + exact.sigma)


def test_rk45_takes_the_steps_of_scipy():
    """One image: the same formulas and the same control give about as many evaluations."""
    x = start(1, HI)
    denoise = THREE.denoiser()

    def slope(place, flat):
        x_there = torch.from_numpy(flat).reshape(x.shape)
        return (denoise(x_there, torch.tensor(math.exp(-place)).double()) - x_there).flatten().numpy()

    found = solve_ivp(slope, (-math.log(HI), -math.log(LO)), x.flatten().numpy(), rtol=1e-6, atol=1e-6)
    *_, state = solver("rk45:1e-6")(denoise, x, torch.tensor([HI, LO, 0.0]).double())
    # scipy chooses its first step, by two evaluations, and keeps a step after a refusal from growing
    assert state.nfe == pytest.approx(found.nfev, rel=0.15)
    exact = denoise(torch.from_numpy(found.y[:, -1]).reshape(x.shape), torch.tensor(LO).double())
    torch.testing.assert_close(state.x, exact, rtol=1e-4, atol=1e-4)


def test_rk45_of_a_batch_is_that_of_one_image_within_the_tolerance():
    sigmas = karras(9, 0.03, 10.0)
    batch = last(solver("rk45:1e-5")(THREE.denoiser(), start(5, 10.0), sigmas))
    for k in range(5):
        alone = last(solver("rk45:1e-5")(THREE.denoiser(), start(1, 10.0, first=k), sigmas))
        torch.testing.assert_close(alone[0], batch[k], rtol=0, atol=3e-4)


def test_a_tolerance_that_cannot_be_held_stops_the_walk():
    def rough(x, sigma):  # jumps of 0.1, whatever the step
        return (linear(x, sigma) * 10).round() / 10

    with pytest.raises(FloatingPointError, match=r"of 5, at sigma .*cannot hold tol = 1e-08.*use a larger tol"):
        last(solver("rk45:1e-8")(rough, start(2, 10.0), karras(5, 0.1, 10.0)))
    assert bool(last(solver("rk45:1e-2")(rough, start(2, 10.0), karras(5, 0.1, 10.0))).isfinite().all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("below", [20.0, 1.0])
def test_values_that_are_not_finite_stop_rk45(bad, below):
    def denoise(x, sigma):
        x0 = linear(x, sigma)
        return x0 if sigma > below else torch.full_like(x0, bad)

    with pytest.raises(FloatingPointError, match=r"step \d of 5, from sigma .* not finite"):
        last(solver("rk45")(denoise, start(3, 10.0), karras(5, 0.03, 10.0)))
