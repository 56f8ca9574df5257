"""Hijack: an image's own noise removed by the sampler, started where its noise level is that of the image."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlgen.backbone import Backbone
from vlgen.generate import denoiser
from vlgen.images import Images, fit
from vlgen.modality import MODALITIES, Modality, modality
from vlgen.plan import Plan, plan
from vlgen.report import Report
from vlgen.schedules import karras
from vlgen.solvers import Solver
from vlgen.tensors import Denoise, counter, normal

MOST = 8  # steps: more of them draw a sample of the prior, where the image itself was wanted
LEAST = 64  # windows of 3 x 3 pixels: fewer tell no noise


def denoise(
    backbone: Backbone,
    image: Images | Tensor,
    report: str = "",
    *,
    kind: str = "",
    sigma: float | None = None,
    noise: float | None = None,
    steps: int = 1,
    weight: float = 1.0,
    kernel: str | None = None,
    solver: str = "euler",
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> Images:
    """Images without their noise: the sampler hijacked at the noise's own level, one to eight steps from there.

    image   (B, 1, H, W) or (1, H, W) in the modality's unit, or Images. What is not of the model's size becomes so by
            `vlgen.images.fit`, the central square
    kind    the modality by its name, where neither Images nor report nor adapter say it
    noise   standard deviation of the image's noise in the modality's unit, at the image's own size; where neither it
            nor sigma is given, that of each image by `noise_of`
    sigma   the level in latents, in place of the noise; else `sigma_of`
    steps   1 gives the clean image that is expected behind the noisy one, a mean; more follow the ODE to a sharper one
    weight  of the result against the image itself, in pixels: 0 is the image, 1 the result alone
    kernel  the weights' own where none is given; under PFGM++ sigma is the same sigma
    seed    of the noise that finds sigma, and of a solver that draws noise

    The latent of the image is taken for z0 + sigma * noise, which is hijacking (Hein et al. 2024, PPFM,
    arXiv:2312.09754: the state at sigma_tau is replaced by the noisy image, and the result is mixed with it by a
    weight), here in the latents of a model that has learned clean images only. The encoder colors the noise, and what
    the codec cannot hold is lost. Images are made one at a time, each with a level of its own.

    Raises ValueError for what cannot be done, FloatingPointError where a step gives no finite numbers.
    """
    pixels, known = _pixels(image, kind)
    if not (math.isfinite(weight) and 0 <= weight <= 1):
        raise ValueError(f"weight {weight} was given: use 0 (the image itself) to 1 (the result alone)")
    if noise is not None and sigma is not None:
        raise ValueError("noise and sigma were both given: give the noise of the pixels, or sigma of the latents")
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise {noise} was given: give a standard deviation above 0 in the modality's unit")
    todo = course(
        backbone, report, known, steps=steps, kernel=kernel, solver=solver, guidance_scale=guidance_scale, seed=seed
    )
    with torch.inference_mode():
        cond = backbone.embed([todo.prompt])
        without = backbone.embed([""]) if todo.guidance_scale != 1 else None
        told = denoiser(backbone, todo, cond, without)
        made, records = [], []
        for x in pixels:
            level, spread = sigma, noise
            if level is None:
                spread = noise_of(x) if noise is None else noise
                level = sigma_of(backbone, x, todo.modality, spread, seed=seed)
            todo = replace(todo, sigmas=levels(level, steps, backbone.sigmas))
            seen = fit(x, backbone.size)[None]
            z = backbone.encode(todo.modality.encode(seen))
            z0 = remove(told, z, todo.sigmas, todo.solver, seed=seed)
            clean = backbone.decode(z0).cpu()
            if not bool(clean.isfinite().all()):
                raise FloatingPointError("the codec gave values that are not finite: lower the guidance scale or sigma")
            made.append(torch.lerp(seen, todo.modality.decode(clean.clamp(-1, 1)), weight))
            records.append(_record(backbone, todo, x, spread, weight, seed))
    return Images(torch.cat(made), todo.modality, tuple(records))


def remove(told: Denoise, z: Tensor, sigmas: Tensor, solver: Solver, *, seed: int = 0) -> Tensor:
    """Where a solver ends that starts from z itself at the first level. (B, C, H, W)

    One step of Euler's method gives E[z0 | z], several the end of the ODE's path through z.
    """
    *_, last = solver(told, z, sigmas, seeds=[counter("hijack", seed)] * len(z))
    return last.x


def levels(sigma: float, steps: int, table: Tensor) -> Tensor:
    """The levels of the walk, (steps + 1,): Karras's from sigma down to sigma / steps^2, then 0.

    table  (T,)  the sigmas that the network was trained on, increasing

    Raises ValueError for a level outside of them: the network has not seen such noise.
    """
    low, high = float(table[0]), float(table[-1])
    if not low < sigma <= high:  # NaN too
        raise ValueError(
            f"the noise has the level {sigma:.3g} in latents, where the model knows {low:.3g} to {high:.3g}: "
            "give another noise or sigma, or leave the image as it is"
        )
    return karras(steps, max(low, sigma / max(steps, 2) ** 2), sigma)


def noise_of(x: Tensor) -> float:
    """Standard deviation of white noise in an image (1, H, W), in the image's unit.

    The Laplacian difference of Immerkaer 1996, doi:10.1006/cviu.1996.0060, which removes all that is linear across 3
    pixels and leaves white noise with 6 times its deviation; by the median of its absolute values over 0.6745 in
    place of their mean, so that edges do not count as noise. Windows that touch the image's least or greatest value
    are left out: what is cut off there hides its noise. Texture finer than 3 pixels counts as noise, and noise that was
    resized or compressed is no longer white and comes out too low.

    Raises ValueError where no window is left, or none varies.
    """
    spread = 0.0
    if min(x.shape[-2:]) >= 3:
        mask = x.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
        found = functional.conv2d(x[None], mask[None, None])[0].abs()
        ends = ((x <= x.min()) | (x >= x.max())).to(x)[None]
        free = found[functional.max_pool2d(ends, 3, 1)[0] == 0]
        spread = float(free.median()) / 6 / 0.6745 if free.numel() >= LEAST else 0.0
    if not spread > 0:
        raise ValueError("no noise was found in the image: give its standard deviation as noise, or a sigma")
    return spread


def sigma_of(backbone: Backbone, x: Tensor, kind: Modality, noise: float, *, seed: int = 0) -> float:
    """The level in latents of so much noise in the pixels: root mean square of what it changes in the latent.

    x      (1, H, W)  the noisy image in the unit of its modality, at its own size
    noise  standard deviation, in that unit

    As much white noise again, drawn by the seed alone, goes with the image through resizing, window and encoder; what
    the latent of the two lies apart, over all its values, is the level. A latent is not linear in its image, so it is
    that of this image, and for much noise a little below what the first noise did to the latent.
    """
    drawn = normal(x.shape, [counter("hijack", seed)])[0]
    both = torch.stack([fit(one, backbone.size) for one in (x, x + noise * drawn)])
    z = backbone.encode(kind.encode(both))
    return float((z[1] - z[0]).square().mean().sqrt())


def course(
    backbone: Backbone,
    report: str = "",
    known: Modality | None = None,
    *,
    steps: int = 1,
    kernel: str | None = None,
    solver: str = "euler",
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> Plan:
    """The plan of a denoising, checked, without its levels: those are of each image.

    known  the modality of the images, where it is known; the report must not name another
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MOST:
        raise ValueError(f"steps is {steps!r}: give a whole number from 1 to {MOST}")
    named = Report.parse(report).modality if report else ""
    if known is not None and named and named != known.name:
        raise ValueError(
            f"the report says {MODALITIES[named].title}, the images are {known.title}: leave one of them out"
        )
    if known is None and not named:
        if len(backbone.modalities) != 1:
            raise ValueError("nothing says what kind of image it is: give its modality, or a report that names it")
        known = modality(backbone.modalities[0])
    if known is not None and not named:
        report = f"{known.title[0].upper()}{known.title[1:]}. {report}".strip()
    todo = plan(
        backbone,
        report,
        seeds=[seed],
        steps=steps,
        schedule_name="karras",
        solver_name=solver,
        kernel_name=kernel,
        guidance_scale=guidance_scale,
    )
    return replace(todo, schedule="hijack")


def _pixels(image: Images | Tensor, kind: str) -> tuple[Tensor, Modality | None]:
    """(B, 1, H, W) float32 on the CPU, and the modality where it is known."""
    known = modality(kind) if kind else None
    x: Any = image
    if isinstance(image, Images):
        if known is not None and known.name != image.modality.name:
            raise ValueError(f"the images are {image.modality.title}, and {kind!r} was given: leave that out")
        x, known = image.pixels, image.modality
    x = x.detach().float().cpu()
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1] != 1 or 0 in x.shape:
        raise ValueError(f"images of shape {tuple(x.shape)}: give at least one, (B, 1, H, W) or (1, H, W)")
    if wrong := int((~x.isfinite().flatten(1).all(1)).sum()):
        raise ValueError(f"{wrong} of {len(x)} images have values that are not finite: leave them out")
    return x, known


def _record(
    backbone: Backbone, todo: Plan, x: Tensor, noise: float | None, weight: float, seed: int
) -> dict[str, object]:
    """What the file will say: as of a generated image, without a seed that would promise to make it again."""
    given = todo.provenance(backbone, seed, [seed])
    kept = {name: value for name, value in given.items() if name not in ("seed", "batch_seeds", "exact")}
    sums = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
    return kept | {
        "job": "denoise",
        "input_sha256": sums,
        "noise": noise,
        "sigmas": todo.sigmas.tolist(),
        "weight": weight,
        "noise_seed": seed,
    }
