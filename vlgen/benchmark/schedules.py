"""Schedules: searched levels against the best of diffusers' fast solvers, on data whose exact path is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vlgen.benchmark.mixture import THREE
from vlgen.kernels import Kernel, kernel
from vlgen.schedules import exponential, karras, miss, searches, trailing
from vlgen.solvers import heun, solver
from vlgen.tensors import Denoise

COUNTS = (5, 6, 7, 8, 9, 10)
KERNELS = ("gaussian", "pfgmpp:16")
SOLVER = "ipndm:3,last=2"
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's noise, scaled_linear


def schedule_ratios(
    counts: Sequence[int] = COUNTS,
    kernels: Sequence[str] = KERNELS,
    *,
    solver_name: str = SOLVER,
    seen: int = 96,
    unseen: int = 400,
) -> Iterator[dict[str, Any]]:
    """For each kernel and each number of evaluations, our distance to the exact end over the best of diffusers'.

    seen    starts that the levels are searched on
    unseen  others that both are measured on: root mean square of each, mean over them

    The data are a mixture of three Gaussians in four pixels, the exact path is that of 200 steps of Heun's method.
    diffusers' are DPM-Solver++, UniPC and DEIS of orders 2 and 3 and iPNDM, each with every spacing that it has.
    """
    table = trained()
    lo, hi = float(table[0]), float(table[-1])
    chosen = solver(solver_name)
    for noise in map(kernel, kernels):
        denoise = THREE.denoiser(noise.D, nodes=40)
        x = begin(noise, hi, range(seen))
        other = begin(noise, hi, range(1000, 1000 + unseen))
        end = exact(denoise, other, lo, hi)
        for n, sigmas in searches(denoise, x, exponential(24, lo, hi), counts, chosen, teacher=heun, parts=8):
            theirs = of_diffusers(n, denoise, other, end)
            best = min(theirs, key=lambda name: theirs[name])
            ours = miss(denoise, other, sigmas, chosen, end)
            yield {
                "kernel": noise.name,
                "evaluations": chosen.nfe(n),
                "solver": solver_name,
                "distance": ours,
                "best_of_diffusers": best,
                "their_distance": theirs[best],
                "ratio": ours / theirs[best],
            }


def trained() -> Tensor:
    """The sigmas of diffusers' noise table, (1000,) increasing."""
    ends = TRAINED["beta_start"] ** 0.5, TRAINED["beta_end"] ** 0.5
    alphas = (1 - torch.linspace(*ends, 1000) ** 2).cumprod(0).double()
    return ((1 - alphas) / alphas).sqrt()


def begin(noise: Kernel, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Starts of the mixture's four pixels, float64."""
    return noise.noise((1, 2, 2), sigma, seeds).double()


def exact(denoise: Denoise, x: Tensor, lo: float, hi: float) -> Tensor:
    """Where 200 steps of Heun's method end."""
    *_, state = heun(denoise, x, karras(200, lo, hi).double())
    return state.x


def of_diffusers(n: int, denoise: Denoise, x: Tensor, end: Tensor) -> dict[str, float]:
    """{solver, spacing: distance to the end} of diffusers' fast solvers at n evaluations."""
    from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler, IPNDMScheduler, UniPCMultistepScheduler

    ipndm: Any = IPNDMScheduler
    found = {}
    table = trained()
    lo, hi = float(table[0]), float(table[-1])
    to_zero = {"final_sigmas_type": "zero"}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "DPM-Solver++(2M)": (DPMSolverMultistepScheduler, {"solver_order": 2} | to_zero),
        "DPM-Solver++(3M)": (DPMSolverMultistepScheduler, {"solver_order": 3} | to_zero),
        "UniPC-2": (UniPCMultistepScheduler, {"solver_order": 2} | to_zero),
        "UniPC-3": (UniPCMultistepScheduler, {"solver_order": 3} | to_zero),
        "DEIS-2": (DEISMultistepScheduler, {"solver_order": 2}),
        "DEIS-3": (DEISMultistepScheduler, {"solver_order": 3}),
    }
    spacings: dict[str, dict[str, Any]] = {
        "linspace": {"timestep_spacing": "linspace"},
        "trailing": {"timestep_spacing": "trailing"},
        "karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
        "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    }
    for kind, (scheduler, options) in kinds.items():
        for spacing, more in spacings.items():
            made = scheduler(**TRAINED, beta_schedule="scaled_linear", **options, **more)
            made.set_timesteps(n)
            if len(made.timesteps) != n or not math.isclose(float(made.sigmas[0]), hi, rel_tol=1e-4):
                raise RuntimeError(f"diffusers' {kind} with {spacing} does not take {n} steps from sigma {hi:g}")
            found[f"{kind}, {spacing}"] = walk(made, denoise, x, made.sigmas)
    for spacing, sigmas in {
        "trailing": trailing(n, table),
        "karras": karras(n, lo, hi),
        "exponential": exponential(n, lo, hi),
    }.items():
        levels = sigmas.double()
        made = ipndm(trained_betas=(levels / (1 + levels**2).sqrt()).tolist())
        made.set_timesteps(n)
        found[f"iPNDM, {spacing}"] = walk(made, denoise, x, sigmas)
    return {name: float((x - end).flatten(1).square().mean(1).sqrt().mean()) for name, x in found.items()}


def walk(scheduler: Any, denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Where a variance-preserving scheduler's own loop ends with the exact denoiser, from our noise."""
    x = x / math.sqrt(1 + float(sigmas[0]) ** 2)
    for i, t in enumerate(scheduler.timesteps):
        sigma = sigmas[i].double()
        x_hat = x.double() * (1 + sigma**2).sqrt()
        x0 = denoise(x_hat, sigma)
        out = (x_hat - x0) / sigma
        if scheduler.config.get("prediction_type") is None:  # iPNDM predicts v
            out = (out - sigma * x0) / (1 + sigma**2).sqrt()
        x = scheduler.step(out, t, x).prev_sample
    return x.double() * (1 + sigmas[-1].double() ** 2).sqrt()
