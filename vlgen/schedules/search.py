"""Search: the levels at which a given solver comes closest to the end of the exact path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlgen.tensors import Denoise, State

# A solver as it runs: (denoise, x, sigmas) -> States.
Solve = Callable[[Denoise, Tensor, Tensor], Iterator[State]]


def search(denoise: Denoise, x: Tensor, fine: Tensor, n: int, solver: Solve, **settings: Any) -> Tensor:
    """The n steps of a solver that end closest to a teacher's result from the same starts. (n + 1,) float32.

    As `searches`, with its settings, for one count of steps.
    """
    [(_, sigmas)] = searches(denoise, x, fine, [n], solver, **settings)
    return sigmas


def searches(
    denoise: Denoise,
    x: Tensor,
    fine: Tensor,
    counts: Sequence[int],
    solver: Solve,
    *,
    teacher: Solve | None = None,
    parts: int = 4,
    beam: int = 2,
    sweeps: int = 8,
) -> Iterator[tuple[int, Tensor]]:
    """For every count of steps, the levels (n + 1,) at which a solver ends closest to a teacher from the same starts.

    denoise  the denoiser that will run, with the guidance that it will have
    x        (B, C, H, W)  starts: kernel.noise at fine[0] under the kernel that will be used. The levels are fitted to
             them, so more than a handful
    fine     (M + 1,)  decreasing, fine[-1] == 0: the levels to choose from; fine[0] is kept
    solver   the deterministic solver that will run: solvers.solver("ipndm:4"), or one of its functions
    teacher  taken for exact; by default the solver itself. Solvers of second order and more are fit for it
    parts    steps that the teacher takes from one fine level to the next
    beam     walks kept for every level and count of steps, and whole ones from which the descent begins
    sweeps   rounds of descent afterwards, in which levels leave the grid; 0 is the grid's own best

    Dynamic programming over (steps taken, level reached), as in Chen et al. 2024, arXiv:2405.11326 (GITS), where the
    cost is the distance of the walk itself to the teacher at that level, as in Pei et al. 2025, arXiv:2503.21774
    (OptimalSteps). Every walk is the solver's own from the start on, and a multistep solver remembers the estimates of
    that walk. The best walk to a level then need not go on from the best walk to one above, so that for such solvers
    the table is a heuristic, which the beam widens; the descent measures whole walks, and at their end alone.

    Raises ValueError where fine has too few levels, FloatingPointError as solvers do. `miss` on other starts tells what
    the levels are worth.
    """
    count = fine.numel() - 1
    for n in counts:
        if not 1 <= n <= count:
            raise ValueError(f"{n} steps were asked of {count} fine levels: use 1 to {count} steps, or more levels.")
    if not counts or parts < 1 or beam < 1 or sweeps < 0:
        raise ValueError(
            f"parts = {parts}, beam = {beam}, sweeps = {sweeps} were given for {len(counts)} counts of steps: use 1, 1 "
            "and 0 or more, for 1 or more."
        )
    walked = (teacher or solver)(denoise, x, _divide(fine, parts))
    exact = {1 + (state.i - 1) // parts: state.x for state in walked}  # of each level, the last of its parts
    asked = _remembered(denoise)

    def reach(places: tuple[int, ...]) -> _Path:
        """The walk down these fine levels, as far as the last of them."""
        ends = places if places[-1] == count else (*places, count)
        walk = solver(asked, x, fine[list(ends)])
        state = next(state for state in walk if state.i == len(places) - 1)
        return _Path(places, _apart(state.x, exact[places[-1]]))

    table: list[dict[int, list[_Path]]] = [{0: [_Path((0,), 0.0)]}]
    for n in sorted(set(counts)):
        while len(table) < n:
            taken, above = len(table), table[-1]
            table.append({})
            for place in range(taken, count):
                paths = [path for start in above if start < place for path in above[start]]
                found = [reach((*path.places, place)) for path in paths]
                table[taken][place] = sorted(found, key=lambda path: path.miss)[:beam]
        whole = [reach((*path.places, count)) for paths in table[n - 1].values() for path in paths]
        kept = sorted(whole, key=lambda path: path.miss)[: beam if sweeps else 1]
        again, low = _remembered(denoise), float(fine[-2])  # what a descent asks is asked by no other
        ends = [_descend(again, x, fine[list(path.places)], solver, exact[count], sweeps, low) for path in kept]
        yield n, min(ends, key=lambda end: end[0])[1]


def miss(denoise: Denoise, x: Tensor, sigmas: Tensor, solver: Solve, exact: Tensor) -> float:
    """How far a solver ends from exact results (B, C, H, W): root mean square of each image, mean over the batch."""
    *_, state = solver(denoise, x, sigmas)
    return _apart(state.x, exact)


@dataclass(frozen=True)
class _Path:
    """A walk: places in the fine levels, and how far from the teacher it has come to the last."""

    places: tuple[int, ...]
    miss: float


def _remembered(denoise: Denoise) -> Denoise:
    """A denoiser that answers what it was asked before from memory, so that walks with one beginning share its cost."""
    answers: dict[tuple[float, int], Tensor] = {}

    def answer(x: Tensor, sigma: Tensor) -> Tensor:
        key = float(sigma), hash(x.detach().cpu().numpy().tobytes())
        if key not in answers:
            answers[key] = denoise(x, sigma)
        return answers[key]

    return answer


def _divide(fine: Tensor, parts: int) -> Tensor:
    """Fine levels with parts - 1 more in every gap, even in log sigma; the step to 0 stays whole."""
    logs = fine[:-1].double().log()
    shares = torch.arange(parts, dtype=torch.float64) / parts
    between = (logs[:-1, None] + shares * (logs[1:] - logs[:-1])[:, None]).exp().flatten()
    return torch.cat([between, fine[-2:].double().cpu()])


def _descend(
    denoise: Denoise, x: Tensor, sigmas: Tensor, solver: Solve, exact: Tensor, sweeps: int, lowest: float
) -> tuple[float, Tensor]:
    """Move one level at a time towards a neighbor in log sigma, by less and less, while the end comes closer."""
    sigmas = sigmas.double().cpu()
    best = miss(denoise, x, sigmas.float(), solver, exact)
    stride = [0.5] * len(sigmas)  # of the way to the neighbor
    for _ in range(sweeps):
        for k in range(1, len(sigmas) - 1):
            below = max(float(sigmas[k + 1]), lowest)
            for neighbor in (float(sigmas[k - 1]), below):
                trial = sigmas.clone()
                trial[k] *= (neighbor / float(sigmas[k])) ** stride[k]
                found = miss(denoise, x, trial.float(), solver, exact) if trial[k] != sigmas[k] else math.inf
                if found < best:
                    best, sigmas = found, trial
                    break
            else:
                stride[k] /= 2
    return best, sigmas.float()


def _apart(a: Tensor, b: Tensor) -> float:
    """Root mean square of each image, their mean over the batch."""
    return float((a - b).flatten(1).square().mean(1).sqrt().mean())
