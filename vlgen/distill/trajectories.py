"""Trajectories: where the teacher passes on its way from noise to images, walked once and kept on disk."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.dataset import texts
from vlgen.generate import denoiser
from vlgen.plan import Plan, plan
from vlgen.report import Report
from vlgen.samplers.starts import reports
from vlgen.tensors import counter
from vlgen.text import Cond
from vlgen.train.latents import States, states
from vlgen.train.loop import Step
from vlgen.train.network import arranged
from vlgen.train.stash import key, stashed

SHARD, TOGETHER = 128, 16  # trajectories of a file, and of a call of the network


@dataclass(frozen=True)
class Walks:
    """The teacher's walks, on disk: z where it passes, and what it was told.

    plan     of the first: kernel, solver, levels and guidance are those of all
    rungs    places in the teacher's levels that were kept, increasing; the start is not among them: the seed gives it
    seeds    (N,) of the noise that each began with
    prompts  (N,) what each was told
    """

    plan: Plan
    rungs: tuple[int, ...]
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    files: tuple[Any, ...]
    told: States

    def __len__(self) -> int:
        return len(self.seeds)

    def noise(self, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
        """(B, C, H, W) the noise of some walks at level 1: of PFGM++, with its s."""
        return self.plan.kernel.noise(shape, 1.0, [self.seeds[row] for row in rows])

    def at(self, rows: Sequence[int], rungs: Sequence[int]) -> Tensor:
        """(B, C, H, W) float32: where each of some walks is on a rung of its own."""
        places = [self.rungs.index(rung) for rung in rungs]
        found = [
            self.files[r // SHARD].get_slice("z")[r % SHARD, place].float()
            for r, place in zip(rows, places, strict=True)
        ]
        return torch.stack(found)  # in float32: autocast on a CPU knows no float16

    def ends(self, rows: Sequence[int]) -> Tensor:
        """(B, C, H, W) float32: where some walks end."""
        return self.at(rows, [self.rungs[-1]] * len(rows))


@dataclass(frozen=True)
class Asked:
    """What a teacher will walk: the plan of each walk, in order, the first `learned` for training."""

    plans: tuple[Plan, ...]
    learned: int

    @cached_property
    def first(self) -> Plan:
        return self.plans[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(each.seeds[0] for each in self.plans)

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(each.prompt for each in self.plans)


def ask(
    backbone: Backbone,
    sources: Sequence[str | Path],
    learned: int,
    held_out: int,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    kernel_name: str | None = None,
    seed: int = 0,
) -> Asked:
    """The walks of a teacher: reports of the sources in turn, every other one in a new phrasing of its facts.

    sources  tables of reports, or folders with one; where there are none, reports are composed

    Noise and texts come from counters, so that walk k is the same however many there are.
    """
    count = learned + held_out
    if sources:
        each = -(-count // len(sources))
        tables = [texts(source, each, counter(seed, "texts", k)) for k, source in enumerate(sources)]
        said = [tables[k % len(tables)][k // len(tables)] for k in range(count)]
        for k in range(count):
            report = Report.parse(said[k])
            if k // len(tables) % 2 and report.findings:
                said[k] = report.compose(counter(seed, "phrasing", k))
    else:
        said = reports(backbone, count, counter(seed, "texts"))
    settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "kernel_name": kernel_name}
    plans = tuple(plan(backbone, text, seeds=[counter(seed, "walk", k)], **settings) for k, text in enumerate(said))
    return Asked(plans, learned)


def walk(
    backbone: Backbone, asked: Asked, rungs: Sequence[int], folder: Path, *, mixed: str
) -> Generator[Step, None, Walks]:
    """Let the teacher walk, yielding progress. Shards that `folder` already holds are not walked again.

    rungs  places in the teacher's levels to keep z at, its end among them; in float16
    """
    from safetensors import safe_open

    first, rungs = asked.first, tuple(sorted(rungs))
    told = yield from states(backbone, ["", *asked.prompts], folder)
    settings = [backbone.fingerprint, backbone.adapter_sha256, first.kernel.name, first.solver.name, mixed, list(rungs)]
    guidance = [first.guidance_scale, *map(str, first.guidance_interval), first.guidance_rescale]
    paths = []
    for start in range(0, len(asked.plans), SHARD):
        part = asked.plans[start : start + SHARD]
        words = [settings, guidance, first.sigmas.tolist(), [[each.seeds[0], each.prompt] for each in part]]
        path = folder / f"walks-{key(words)}.safetensors"
        paths.append(path)
        if path.is_file():
            continue
        found = []
        with arranged(backbone, mixed):
            for k in range(0, len(part), TOGETHER):
                yield Step("walk", start + k, len(asked.plans), {}, 0.0)
                found.append(_passed(backbone, part[k : k + TOGETHER], rungs, told, mixed))
        z = torch.cat(found)
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(f"the teacher {backbone.name} left what float16 holds: lower its guidance scale")
        stashed(path, {"z": z})
    yield Step("walk", len(asked.plans), len(asked.plans), {}, 0.0)
    files = tuple(safe_open(path, framework="pt") for path in paths)
    return Walks(first, rungs, asked.seeds, asked.prompts, files, told)


def moved(cond: Cond, device: torch.device) -> Cond:
    """The same conditions on a device."""
    return Cond(cond.states.to(device), cond.mask.to(device), cond.pooled.to(device))


def _passed(backbone: Backbone, plans: Sequence[Plan], rungs: Sequence[int], told: States, mixed: str) -> Tensor:
    """(B, len(rungs), C, H, W) float16."""
    first, seeds = plans[0], [each.seeds[0] for each in plans]
    device = backbone.device
    kept = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=mixed == "bf16"):
        cond = moved(told([each.prompt for each in plans]), device)
        without = moved(told([""]), device).repeat(len(plans)) if first.guidance_scale != 1 else None
        z = first.kernel.noise(backbone.shape, float(first.sigmas[0]), seeds).to(device)
        for state in first.solver(denoiser(backbone, first, cond, without), z, first.sigmas, seeds=seeds):
            if state.i in rungs:
                kept.append(state.x.to("cpu", torch.float16))
    return torch.stack(kept, 1)
