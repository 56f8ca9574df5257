"""Quality: how far every solver ends from the exact path on a model, by the network evaluations that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.plan import plan
from vlgen.samplers.starts import TEACHER, Starts, starts
from vlgen.schedules import miss
from vlgen.solvers import SOLVERS, Solver, check_kernel, solver
from vlgen.tensors import Denoise

BUDGETS = (5, 10, 20, 40)
TOLERANCES = (0.1, 0.03, 0.01, 0.003)  # of an adaptive solver, in place of steps
FAST = "ipndm:3,last=2"  # the best at few steps that we know of
_LARGE = 1000  # more steps than any budget pays for


@dataclass(frozen=True)
class Point:
    """One solver at one cost.

    evaluations  of the network for an image, guidance's second half not counted
    distance     root mean square of the latents' distance to 200 steps of Heun's method from the same noise; latents
                 have unit variance. Of a stochastic solver it says that its walk leaves the path, not that it is wrong
    schedule     the model's own, or "searched" where levels were searched for these very settings
    """

    solver: str
    steps: int
    evaluations: int
    distance: float
    stochastic: bool
    schedule: str


def quality(
    backbone: Backbone,
    *,
    names: Sequence[str] = (*SOLVERS, FAST),
    budgets: Sequence[int] = (),
    images: int = 4,
    teacher: int = TEACHER,
    seed: int = 0,
    kernel_name: str | None = None,
    guidance_scale: float | None = None,
) -> Iterator[Point]:
    """A Point for each solver and each number of evaluations that it may take; of langevin and its like, the next less.

    budgets  BUDGETS where none are given
    teacher  steps of Heun's method that are taken for exact

    Solvers that the kernel does not allow are left out.
    """
    given = {"kernel_name": kernel_name, "guidance_scale": guidance_scale}
    begun = starts(backbone, images, part="quality", seed=seed, **given)  # type: ignore[arg-type]
    end = begun.teacher(teacher)
    for name in names:
        chosen = solver(name)
        try:
            check_kernel(chosen, begun.plan.kernel)
        except ValueError:
            continue
        if chosen.adaptive:
            for tolerance in TOLERANCES:
                yield _measured(begun, solver(f"{name}:{tolerance:g}"), begun.plan.sigmas, "", end)
            continue
        for budget in budgets or BUDGETS:
            steps = max((n for n in range(1, _LARGE) if chosen.nfe(n) <= budget), default=0)
            if steps > 1 or (steps and chosen.evaluations == 1):
                todo = plan(backbone, begun.plan.report, seeds=[0], steps=steps, solver_name=name, **given)  # type: ignore[arg-type]
                yield _measured(begun, chosen, todo.sigmas, todo.schedule, end)


def _measured(begun: Starts, chosen: Solver, sigmas: Tensor, schedule: str, end: Tensor) -> Point:
    asked = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return begun.denoise(x, sigma)

    def walk(denoise: Denoise, x: Tensor, levels: Tensor) -> Iterator:  # type: ignore[type-arg]
        return chosen(denoise, x, levels, seeds=begun.seeds)

    with torch.inference_mode():
        far = miss(counted, begun.x, sigmas, walk, end)
    return Point(chosen.name, len(sigmas) - 1, asked, far, chosen.stochastic, schedule)
