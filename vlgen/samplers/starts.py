"""Starts: noise and texts from which solvers are measured, and where the exact path from there ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.findings import VOCABULARY
from vlgen.generate import denoiser
from vlgen.modality import MODALITIES
from vlgen.plan import Plan, plan
from vlgen.report import Report
from vlgen.schedules import schedule
from vlgen.solvers import heun
from vlgen.tensors import Denoise, counter

TEACHER = 200  # steps of Heun's method


@dataclass(frozen=True)
class Starts:
    """Noise of several images, each with a text of its own, and the denoiser with its guidance that they will meet.

    plan   of the first; what is of texts and seeds alone differs in the others
    seeds  (B,)
    x      (B, C, H, W)  at the largest level
    """

    plan: Plan
    seeds: tuple[int, ...]
    denoise: Denoise
    x: Tensor

    def teacher(self, steps: int = TEACHER) -> Tensor:
        """Where Heun's method ends in so many steps of Karras's levels: nearly the exact path's end. (B, C, H, W)"""
        hi, lo = float(self.plan.sigmas[0]), float(self.plan.sigmas[-2])
        with torch.inference_mode():
            *_, state = heun(self.denoise, self.x, schedule("karras", steps, lo, hi))
        return state.x


def starts(
    backbone: Backbone,
    count: int,
    *,
    part: str,
    seed: int = 0,
    texts: Sequence[str] = (),
    solver_name: str | None = None,
    kernel_name: str | None = None,
    guidance_scale: float | None = None,
) -> Starts:
    """So many starts under the kernel and the guidance given, or else the model's own.

    part   what they are for: "search", "check"; other words give other noise and texts
    texts  one for each in turn; where there are none, reports composed of findings that the model's modalities show
    """
    if count < 1:
        raise ValueError(f"{count} starts were asked for: use at least 1")
    said = list(texts) or reports(backbone, count, counter("texts", part, seed))
    seeds = tuple(counter("starts", part, seed, k) for k in range(count))
    own = str(backbone.defaults.get("schedule", "karras"))
    plans = [
        plan(
            backbone,
            said[k % len(said)],
            seeds=[seeds[k]],
            schedule_name=own,  # its ends are wanted, not levels that were searched before
            solver_name=solver_name,
            kernel_name=kernel_name,
            guidance_scale=guidance_scale,
        )
        for k in range(count)
    ]
    first = plans[0]
    with torch.inference_mode():
        cond = backbone.embed([each.prompt for each in plans])
        without = backbone.embed([""]).repeat(count) if first.guidance_scale != 1 else None
        x = first.kernel.noise(backbone.shape, float(first.sigmas[0]), seeds).to(backbone.device)
    return Starts(replace(first, seeds=seeds), seeds, denoiser(backbone, first, cond, without), x)


def reports(backbone: Backbone, count: int, seed: int) -> list[str]:
    """Composed reports, of the model's modalities in turn: every other without a finding, no two of one phrasing."""
    known = [str(name) for name in backbone.modalities or backbone.card.get("modalities", MODALITIES)]
    found = []
    for k in range(count):
        kind = MODALITIES[known[k % len(known)]]
        shown = [name for name, term in VOCABULARY.items() if kind.name in term.modalities]
        place = counter(seed, "finding", k) % max(len(shown), 1)
        about = "No acute finding." if not shown or k // len(known) % 2 else f"{shown[place].capitalize()}."
        found.append(Report.parse(f"{kind.title}. {about}").compose(counter(seed, "phrasing", k)))
    return found
