"""Path: a whole image at the default settings beside one as diffusers makes it by default, by cost and by error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.backbone import Backbone, load
from vlgen.generate import denoiser
from vlgen.guidance import cfg_batched
from vlgen.plan import Plan, plan
from vlgen.samplers.starts import TEACHER, reports
from vlgen.schedules import karras
from vlgen.solvers import heun
from vlgen.tensors import counter, normal
from vlgen.text import Cond, join

STEPS = 50  # of diffusers' pipelines, by default


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

    vlgen      the model's default solver, levels and guidance, as `vlgen generate` runs them
    diffusers  what StableDiffusionPipeline does by default, written anew: DDIM in 50 steps on the same weights in
               float32, guidance of the same scale in every step as one batch of two; without the padding of texts
    images     made one after the other, each of its own noise and text; figures are their means

    cpu_s and wall_s: of an image, decoding included, the fastest of `repeats` in turn after a warm-up. distance: the
    root mean square over the latent, of unit variance, to `teacher` steps of Heun's method from the same noise under
    guidance of the same scale. ratio: the CPU seconds over those of vlgen.
    """
    ours, theirs = load(model), load(model)
    theirs.unet.to(memory_format=torch.contiguous_format)  # as a pipeline has it
    asked = [_ask(ours, text, counter("path", seed, k)) for k, text in enumerate(reports(ours, images, seed))]
    makers: dict[str, Callable[[_Asked], _Walked]] = {
        "vlgen": lambda one: _ours(ours, one),
        f"diffusers, DDIM {STEPS}": lambda one: _theirs(theirs, one),
    }
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name, make in makers.items():
            ends = [(walked.end, _exact(ours, one, walked, teacher)) for one in asked for walked in [make(one)]]
            apart = sum(float((end - exact).square().mean().sqrt()) for end, exact in ends) / images
            found[name] = {"distance": apart, "cpu_s": float("inf"), "wall_s": float("inf"), "n": images}
        for _ in range(repeats):
            for name, make in makers.items():
                wall, cpu = time.monotonic(), time.process_time()
                for one in asked:
                    ours.decode(make(one).end)
                spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
                found[name] |= {key: min(found[name][key], value / images) for key, value in spent.items()}
    return {name: row | {"ratio": row["cpu_s"] / found["vlgen"]["cpu_s"]} for name, row in found.items()}


def _ask(backbone: Backbone, text: str, seed: int) -> _Asked:
    todo = plan(backbone, text, seeds=[seed])
    with torch.inference_mode():
        return _Asked(todo, backbone.embed([todo.prompt]), backbone.embed([""]))


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
