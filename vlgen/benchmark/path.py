"""Path: a whole image as vlgen makes it beside one as diffusers makes it by default, by cost and by error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlgen.backbone import Backbone, load
from vlgen.generate import denoiser
from vlgen.guidance import cfg_batched
from vlgen.plan import Plan, plan
from vlgen.precision import quick
from vlgen.samplers.starts import TEACHER, reports
from vlgen.schedules import SEARCHED, home, karras, stored
from vlgen.solvers import heun, nfe
from vlgen.tensors import counter, normal
from vlgen.text import Cond, join

STEPS = 50  # of diffusers' pipelines, by default
DIFFUSERS = f"diffusers, DDIM {STEPS}"


@dataclass(frozen=True)
class _Asked:
    """One image: its plan at the default settings, and its text states with those of the empty text."""

    plan: Plan
    cond: Cond
    without: Cond


@dataclass(frozen=True)
class _Walked:
    """A walk: its first level, the noise that it started from there, and the latent where it ended."""

    level: float
    start: Tensor
    end: Tensor


def path_timing(
    model: str = "mini", *, images: int = 4, repeats: int = 3, teacher: int = TEACHER, seed: int = 0
) -> dict[str, dict[str, float]]:
    """CPU seconds of one image, its text states ready, and its distance to the exact end from its own noise.

    vlgen             the model's default solver, levels and guidance, as `vlgen generate` runs them
    vlgen, N steps    the cheapest of the levels that were searched for the model whose distance is no larger than that
                      of diffusers: cost at equal distance. Not there where none were searched, or none comes so close
    ..., bf16         the same in bfloat16, where the machine has units for it
    diffusers         what StableDiffusionPipeline does by default, written anew: DDIM in 50 steps on the same weights
                      in float32, guidance of the same scale in every step as one batch of two; without the padding of
                      texts
    images            made one after the other, each of its own noise and text; figures are their means

    cpu_s and wall_s: of an image, decoding included, the fastest of `repeats` in turn after a warm-up. ratio: the CPU
    seconds of diffusers over these. distance: the root mean square over the latent, of unit variance, to `teacher`
    steps of Heun's method in float32 from the same noise under guidance of the same scale. In bfloat16 besides:
    error and worst, the root mean square and the largest difference of the image from the same in float32, in shares
    of the display range; decode_db, the peak signal-to-noise ratio of the decoder alone.
    """
    backbone, theirs = load(model), load(model)
    theirs.unet.to(memory_format=torch.contiguous_format)  # as a pipeline has it
    asked = [_ask(backbone, text, counter("path", seed, k)) for k, text in enumerate(reports(backbone, images, seed))]
    with torch.inference_mode():
        ddim, own = [_theirs(theirs, one) for one in asked], [_ours(backbone, one) for one in asked]
        far, exact = (
            [_exact(backbone, one, walked, teacher) for one, walked in zip(asked, walks, strict=True)]
            for walks in (ddim, own)
        )
        limit = _apart(ddim, far)
        ways = {"vlgen": asked}
        found = {"vlgen": {"distance": _apart(own, exact)}}
        for quicker in _searched(backbone, asked):
            distance = _apart([_ours(backbone, one) for one in quicker], exact)
            if distance <= limit:
                name = f"vlgen, {quicker[0].plan.steps} steps"
                ways[name], found[name] = quicker, {"distance": distance}
                break
        makers = {name: [(backbone, one) for one in way] for name, way in ways.items()}
        if quick(backbone.device):
            half = load(model, precision="bf16")
            for name, way in ways.items():
                low, high = [_ours(half, one) for one in way], [_ours(backbone, one) for one in way]
                found[f"{name}, bf16"] = {"distance": _apart(low, exact)} | _errors(backbone, half, low, high)
                makers[f"{name}, bf16"] = [(half, one) for one in way]
        makers[DIFFUSERS] = [(theirs, one) for one in asked]
        found[DIFFUSERS] = {"distance": limit}
        spent = {name: [float("inf")] * 2 for name in makers}
        for _ in range(repeats):
            for name, jobs in makers.items():
                wall, cpu = time.monotonic(), time.process_time()
                for by, one in jobs:
                    by.decode((_theirs if by is theirs else _ours)(by, one).end)
                now = (time.process_time() - cpu, time.monotonic() - wall)
                spent[name] = [min(pair) for pair in zip(spent[name], now, strict=True)]
    return {
        name: {"cpu_s": spent[name][0] / images, "wall_s": spent[name][1] / images, "n": images}
        | {"ratio": spent[DIFFUSERS][0] / spent[name][0]}
        | row
        for name, row in found.items()
    }


def _searched(backbone: Backbone, asked: list[_Asked]) -> Iterator[list[_Asked]]:
    """The same images at levels that were searched for these settings, by any solver, the cheapest first."""
    todo = asked[0].plan
    guidance = (todo.guidance_scale, *todo.guidance_interval, todo.guidance_rescale)
    fit = [
        each
        for each in stored(home(backbone.folder, backbone.carried.values()))
        if (each.kernel, each.guidance) == (todo.kernel.name, guidance) and each.of(backbone.fingerprint)
    ]
    for each in sorted(fit, key=lambda each: nfe(each.solver, each.steps)):
        if nfe(each.solver, each.steps) < nfe(todo.solver.name, todo.steps):
            settings: dict[str, Any] = {"solver_name": each.solver, "steps": each.steps, "schedule_name": SEARCHED}
            yield [
                replace(one, plan=plan(backbone, one.plan.report, seeds=one.plan.seeds, **settings)) for one in asked
            ]


def _ask(backbone: Backbone, text: str, seed: int) -> _Asked:
    todo = plan(backbone, text, seeds=[seed])
    with torch.inference_mode():
        return _Asked(todo, backbone.embed([todo.prompt]), backbone.embed([""]))


def _apart(walks: Iterable[_Walked], exact: Iterable[Tensor]) -> float:
    """Root mean square distance of the ends to the exact ones, their mean over the images."""
    return _mean([_rms(walked.end - end) for walked, end in zip(walks, exact, strict=True)])


def _errors(backbone: Backbone, half: Backbone, low: list[_Walked], high: list[_Walked]) -> dict[str, float]:
    """What bfloat16 costs: error of the image, its largest part, and of the decoder alone."""
    images = [
        tuple(by.decode(walked.end).clamp(-1, 1) / 2 for by, walked in ((half, a), (backbone, b), (half, b)))
        for a, b in zip(low, high, strict=True)
    ]
    decoded = _mean([float((again - image).square().mean()) for _, image, again in images])
    return {
        "error": _mean([_rms(lower - image) for lower, image, _ in images]),
        "worst": max(float((lower - image).abs().max()) for lower, image, _ in images),
        "decode_db": -10 * math.log10(max(decoded, 1e-20)),
    }


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ours(backbone: Backbone, one: _Asked) -> _Walked:
    todo = one.plan
    guided = denoiser(backbone, todo, one.cond, one.without if todo.guidance_scale != 1 else None)
    x = todo.kernel.noise(backbone.shape, float(todo.sigmas[0]), todo.seeds)
    *_, last = todo.solver(guided, x, todo.sigmas, seeds=todo.seeds)
    return _Walked(float(todo.sigmas[0]), x, last.x)


def _theirs(backbone: Backbone, one: _Asked) -> _Walked:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(str(backbone.folder / "scheduler"))  # type: ignore[no-untyped-call]
    scheduler.register_to_config(clip_sample=False)  # latents are not pixels
    scheduler.set_timesteps(STEPS)
    unet, both = backbone.unet, join([one.without, one.cond])
    extra = {"class_labels": both.pooled} if unet.config.get("class_embed_type") == "projection" else {}
    z = normal(backbone.shape, one.plan.seeds)
    level = float(backbone.sigmas[int(scheduler.timesteps[0])])
    start = z * (1 + level**2) ** 0.5  # the scheduler's x_t is z; in sigma units x_t / alpha_t
    for t in scheduler.timesteps:
        found = unet(torch.cat([z, z]), t, both.states, encoder_attention_mask=both.mask, return_dict=False, **extra)[0]
        plain, told = found.chunk(2)
        z = scheduler.step(plain + one.plan.guidance_scale * (told - plain), t, z, return_dict=False)[0]
    return _Walked(level, start, z)


def _exact(backbone: Backbone, one: _Asked, walked: _Walked, steps: int) -> Tensor:
    """Where Heun's method ends from the same start, with guidance at every level, in so many steps."""
    guided = cfg_batched(backbone.denoiser_pair(one.cond, one.without), one.plan.guidance_scale)
    *_, last = heun(guided, walked.start, karras(steps, float(one.plan.sigmas[-2]), walked.level))
    return last.x
