"""Levels: the noise levels that suit a solver best on a model, found by walking it, and kept beside its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vlgen import __version__
from vlgen.backbone import Backbone
from vlgen.files import store
from vlgen.samplers.starts import starts
from vlgen.schedules import FILE, Stored, exponential, home, kept, miss, schedule, searches, stored
from vlgen.solvers import heun, nfe


@dataclass(frozen=True)
class Found:
    """Levels for one count of steps, and what they are worth on starts and texts that the search has not seen.

    miss   distance of the images' latents, whose values have unit variance, to the teacher's: root mean square
    named  the same of the model's own schedule, by its name
    """

    levels: Stored
    miss: float
    named: float
    schedule: str


def search_levels(
    backbone: Backbone,
    counts: Sequence[int],
    *,
    solver_name: str | None = None,
    kernel_name: str | None = None,
    guidance_scale: float | None = None,
    images: int = 6,
    fine: int = 24,
    parts: int = 8,
    beam: int = 2,
    sweeps: int = 3,
    seed: int = 0,
) -> Iterator[Found]:
    """For each count of steps, the levels at which the solver ends closest to Heun's method in 185 steps.

    What is not given is the model's own, guidance included. images start from noise of their own, each with a composed
    text; half as many others tell what was found. The rest is that of `vlgen.schedules.searches`. A count of 10 costs
    some 1000 evaluations of images at once, and smaller ones less.

    Raises ValueError for a solver that draws noise or chooses its own steps: its walks do not repeat.
    """
    given = {"solver_name": solver_name, "kernel_name": kernel_name, "guidance_scale": guidance_scale, "seed": seed}
    seen = starts(backbone, images, part="search", **given)  # type: ignore[arg-type]
    exact = (fine - 1) * parts + 1  # the teacher's steps
    other = starts(backbone, (images + 1) // 2, part="check", **given)  # type: ignore[arg-type]
    todo = seen.plan
    if todo.solver.stochastic or todo.solver.adaptive:
        why = "draws noise" if todo.solver.stochastic else "chooses its own steps"
        raise ValueError(f"solver {todo.solver.name!r} {why}: search levels for one that walks them, such as ipndm")
    lo, hi = float(todo.sigmas[-2]), float(todo.sigmas[0])
    walks = searches(
        seen.denoise,
        seen.x,
        exponential(fine, lo, hi),
        counts,
        todo.solver,
        teacher=heun,
        parts=parts,
        beam=beam,
        sweeps=sweeps,
    )
    end = None
    while True:
        with torch.inference_mode():  # not held across a yield: it would leak into the caller
            found = next(walks, None)
            if found is None:
                return
            steps, sigmas = found
            end = other.teacher(exact) if end is None else end
            named = schedule(todo.schedule, steps, lo, hi, backbone.sigmas)
            far, plain = (miss(other.denoise, other.x, levels, todo.solver, end) for levels in (sigmas, named))
        made = {
            "software": f"vlgen {__version__}",
            "model_fingerprint": backbone.fingerprint,
            "adapter_sha256": list(backbone.adapter_sha256),
            "teacher": f"heun, {exact} steps",
            "images": images,
            "fine": fine,
            "beam": beam,
            "sweeps": sweeps,
            "seed": seed,
            "evaluations": nfe(todo.solver.name, steps),
            "distance": far,
            f"distance_{todo.schedule}": plain,
        }
        key = (
            todo.solver.name,
            todo.kernel.name,
            (todo.guidance_scale, *todo.guidance_interval, todo.guidance_rescale),
        )
        yield Found(Stored(*key, tuple(sigmas.tolist()), made), far, plain, todo.schedule)


def shelve(backbone: Backbone, found: Sequence[Found], file: Path | None = None) -> Path:
    """Write levels beside the model's weights, or its adapter's, from where `generate` takes them; the file's path.

    file  another place; entries that it holds for other settings stay
    """
    folder = home(backbone.folder, backbone.carried.values())
    if file is None and folder is None:
        raise ValueError(
            "levels of several adapters, or of one at another scale than 1, belong to no folder: name a file with --out"
        )
    place = file or folder / FILE  # type: ignore[operator]
    return store(place, kept(stored(place), [each.levels for each in found]).encode())
