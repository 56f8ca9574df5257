"""Generate: a report becomes images, by any kernel and solver, one integer seed per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.files import store
from vlgen.guidance import cfg_batched, interval
from vlgen.images import Images, fit
from vlgen.plan import Plan, plan
from vlgen.sheet import png, sheet
from vlgen.tensors import Denoise
from vlgen.text import Cond


@dataclass(frozen=True)
class Progress:
    """Where sampling stands: images finished, step of the batch under way, and the images when it is over.

    preview  (B, C, H, W) the clean latent the denoiser expects, for whoever wants to decode and look
    """

    done: int
    step: int
    steps: int
    preview: Tensor
    finished: Images | None = None


def sample(backbone: Backbone, plan: Plan, *, batch: int = 4) -> Iterator[Progress]:
    """Walk through a plan, yielding every step; the Progress that ends a batch carries its finished images.

    Stopping the iteration stops the work; what was finished has been yielded. With plan.exact the images are made one
    at a time, so that image k is the same bits whatever else was asked for.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}: give at least 1")
    size = 1 if plan.exact else batch
    with torch.inference_mode():
        cond = backbone.embed([plan.prompt])
        without = backbone.embed([plan.negative]) if plan.guidance_scale != 1 else None
    for start in range(0, len(plan.seeds), size):
        seeds = plan.seeds[start : start + size]
        with torch.inference_mode():
            denoise = denoiser(backbone, plan, cond.repeat(len(seeds)), without and without.repeat(len(seeds)))
            z = plan.kernel.noise(backbone.shape, float(plan.sigmas[0]), seeds).to(backbone.device)
            walk = plan.solver(denoise, z, plan.sigmas, seeds=seeds)
        while True:
            with torch.inference_mode():  # not held across a yield: it would leak into the caller
                state = next(walk, None)
            if state is None:
                break
            finished = None
            if state.i == plan.steps:
                finished = _finish(backbone, plan, state.x, seeds)
            yield Progress(start + (len(seeds) if finished else 0), state.i, plan.steps, state.x0, finished)


def generate(
    backbone: Backbone,
    report: str,
    *,
    seeds: Iterable[int] = range(4),
    steps: int | None = None,
    solver: str | None = None,
    schedule: str | None = None,
    kernel: str | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    exact: bool = False,
    batch: int = 4,
) -> Images:
    """Images of a report, in the unit of their modality, one for each seed.

    report          free text: a sentence, or a whole report with its sections
    solver          by its name, options after a colon: "heun", "ddim:0.5"; `vlgen samplers` lists them
    schedule        by its name; where none is given, levels searched for these settings, or else the model's own
    kernel          gaussian, or pfgmpp:D with weights trained under that D, which is then the default
    guidance_scale  1 follows the data; more follows the text more closely, at the price of variety
    exact           one image at a time: the same bits whatever the other seeds are

    What is not given comes from the model. Raises ValueError for what cannot be done, FloatingPointError where a
    step gives no finite numbers.
    """
    resolved = plan(
        backbone,
        report,
        seeds=seeds,
        steps=steps,
        solver_name=solver,
        schedule_name=schedule,
        kernel_name=kernel,
        guidance_scale=guidance_scale,
        negative=negative,
        exact=exact,
    )
    return collect(progress.finished for progress in sample(backbone, resolved, batch=batch) if progress.finished)


def illustrate(
    backbone: Backbone, reports: Sequence[str], *, seeds: Sequence[int], batch: int = 8, **settings: Any
) -> Iterator[tuple[int, Images]]:
    """One image for each report, from the seed of the same place: (place, the image), as they are finished.

    Reports share the work of a batch, whatever they say. settings are those of `vlgen.plan.plan`. All reports are read
    before the first image is made; ValueError names the place of one that cannot be used.
    """
    if len(reports) != len(seeds):
        raise ValueError(f"{len(reports)} reports and {len(seeds)} seeds: give one seed for each report")
    plans: list[Plan] = []
    for place, (report, seed) in enumerate(zip(reports, seeds, strict=True)):
        try:
            plans.append(plan(backbone, report, seeds=[seed], **settings))
        except ValueError as error:
            raise ValueError(f"report {place + 1} of {len(reports)}: {error}") from None
    for start in range(0, len(plans), batch):
        part = plans[start : start + batch]
        first, own = part[0], [p.seeds[0] for p in part]
        with torch.inference_mode():
            cond = backbone.embed([p.prompt for p in part])
            without = backbone.embed([first.negative]).repeat(len(part)) if first.guidance_scale != 1 else None
            z = first.kernel.noise(backbone.shape, float(first.sigmas[0]), own).to(backbone.device)
            *_, last = first.solver(denoiser(backbone, first, cond, without), z, first.sigmas, seeds=own)
        for k, one in enumerate(part):
            yield start + k, _finish(backbone, one, last.x[k : k + 1], own[k : k + 1], own)


def collect(parts: Iterable[Images]) -> Images:
    """Batches of one call as one."""
    found = list(parts)
    provenance = tuple(record for part in found for record in part.provenance)
    return Images(torch.cat([part.pixels for part in found]), found[0].modality, provenance)


def contact(
    backbone: Backbone,
    texts: Sequence[str],
    seeds: Sequence[int],
    path: Path,
    *,
    size: int = 128,
) -> Path:
    """Write a contact sheet at the default settings: rows are texts, columns are seeds.

    The file says that it is synthetic, of which model and which adapters, and of every picture how it was made.
    """
    rows, records = [], []
    for text in texts:
        images = generate(backbone, text, seeds=seeds)
        rows.append([fit(x, size) for x in images.shown()])
        records += [
            {k: v for k, v in record.items() if k not in ("report", "negative")} for record in images.provenance
        ]
    marks = {"synthetic": True, "model": backbone.name, "adapters": dict(backbone.adapters), "sheet": records}
    return store(path, png(sheet(rows, list(texts)), marks))


def denoiser(backbone: Backbone, plan: Plan, cond: Cond, without: Cond | None) -> Denoise:
    """The denoiser of these conditions, with the guidance that the plan has; without is None where it has none."""
    plain = backbone.denoiser(cond)
    if without is None:
        return plain
    pair = backbone.denoiser_pair(cond, without)
    guided = cfg_batched(pair, plan.guidance_scale, rescale=plan.guidance_rescale)
    return interval(guided, plain, *plan.guidance_interval)


def _finish(
    backbone: Backbone, plan: Plan, z: Tensor, seeds: Sequence[int], drawn: Sequence[int] | None = None
) -> Images:
    with torch.inference_mode():
        x = torch.cat([backbone.decode(part) for part in z.split(1 if plan.exact else len(z))])
    if not bool(x.isfinite().all()):
        raise FloatingPointError("the codec gave values that are not finite: lower the guidance scale")
    pixels = plan.modality.decode(x.clamp(-1, 1).cpu())
    return Images(
        pixels.clone(), plan.modality, tuple(plan.provenance(backbone, seed, drawn or seeds) for seed in seeds)
    )
