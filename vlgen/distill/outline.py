"""The outline of a distillation: what it would do, with levels, parameters and time, before anything is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vlgen.backbone import Backbone
from vlgen.distill.lesson import some
from vlgen.distill.settings import Settings
from vlgen.distill.student import Course, course, tuning_of
from vlgen.distill.trajectories import TOGETHER
from vlgen.generate import denoiser
from vlgen.train.network import Trained, arranged
from vlgen.train.tune import carried


def outline(backbone: Backbone, *, out: str | Path, texts: Sequence[str | Path] = (), **settings: Any) -> Iterator[str]:
    """What `distill` would do with the same words, a line each; nothing is written. ValueError as there."""
    out = Path(out)
    todo = course(backbone, out, texts, Settings.of(settings))
    given, teacher = todo.settings, todo.asked.first
    yield (
        f"adapter {given.name or out.name} in {out} | teacher {backbone.name}: {teacher.solver.name}, {teacher.steps} "
        f"steps, guidance {teacher.guidance_scale:g}, {teacher.nfe} evaluations | kernel {teacher.kernel.name}"
    )
    words = len(set(todo.asked.prompts))
    yield f"trajectories: {given.trajectories} to learn, {given.held_out} held out | {words} texts"
    for ladder in todo.ladders:
        levels = " ".join(f"{sigma:.3g}" for sigma in ladder.sigmas)
        yield f"student of {ladder.nfe} evaluation{'s' * (ladder.nfe > 1)}: {levels}"
    walks, step, trained = _measured(backbone, todo, out)
    count = given.trajectories + given.held_out
    size = count * len(todo.rungs) * 2 * torch.Size(backbone.shape).numel() / 2**20
    which = f"{', '.join(given.targets)}, rank {given.rank}"
    yield f"parameters: {trained:,} trained ({which}), {trained * 2 / 2**20:.2f} MiB"
    yield (
        f"steps: {given.steps} of {given.batch} trajectories, {given.steps * given.batch / given.trajectories:.1f} "
        f"passes | lr {given.lr:g} | {'float32' if todo.mixed == 'no' else todo.mixed} on {backbone.device.type}"
    )
    yield (
        f"time: about {walks * count / 60:.1f} min of the teacher's walks, {size:.0f} MiB of them on disk, and "
        f"{step * given.steps / 60:.1f} min of steps, {step:.2f} s each"
    )
    for note in todo.notes:
        yield f"note: {note}"


def _measured(backbone: Backbone, todo: Course, out: Path) -> tuple[float, float, int]:
    """Seconds of a teacher's walk, and of a step; and how many parameters are trained."""
    device, bf16 = backbone.device, todo.mixed == "bf16"
    first, sizes = todo.asked.first, [ladder.nfe for ladder in todo.ladders]
    share = -(-todo.settings.batch // len(sizes))
    with carried(backbone, tuning_of(todo, out)) as parameters, arranged(backbone, todo.mixed):
        network = Trained(backbone, parameters)
        cond = backbone.embed([first.prompt]).repeat(max(TOGETHER, share * len(sizes)))
        guided = denoiser(backbone, first, cond[:TOGETHER], backbone.embed([""]).repeat(TOGETHER))

        def walk() -> float:
            began = time.monotonic()
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                guided(torch.randn(TOGETHER, *backbone.shape, device=device), torch.tensor(1.0, device=device))
            return (time.monotonic() - began) * first.nfe / 2 / TOGETHER

        def step() -> float:
            began, total = time.monotonic(), torch.zeros((), device=device)
            for i in range(max(sizes)):
                n = share * sum(size > i for size in sizes)
                z, sigma = torch.randn(n, *backbone.shape, device=device), torch.ones(n, device=device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    total = total + network(z, sigma, some(cond, range(n))).float().square().mean()
            total.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
            return time.monotonic() - began

        walk(), step()
        return walk(), step(), sum(parameter.numel() for parameter in parameters)
