"""The lesson: a student's steps down its ladders beside where the teacher passed, and by how much they miss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import torch
from torch import Tensor, nn

from vlgen.backbone import Backbone
from vlgen.distill.ladders import Ladder
from vlgen.distill.trajectories import Walks, moved
from vlgen.tensors import expand, generator
from vlgen.text import Cond

OWN = 0.5  # share of the walks whose student goes on from where it came to, and not from where the teacher was
ROUND = 0.00054  # of the clean latent: where the loss turns from square to straight, c of Song and Dhariwal 2023


Denoiser = Callable[[Tensor, Tensor, Cond], Tensor]  # (z, (B,) levels, conditions) -> x0


@dataclass(frozen=True)
class Rungs:
    """What some walks did in their step of one number.

    places  (k,) which of the walks took it: those whose ladder is long enough
    error   (k,) how far from the teacher it landed: mean square of the clean latents, of unit variance
    z       (k, C, H, W) where it landed
    """

    places: tuple[int, ...]
    error: Tensor
    z: Tensor


def descend(
    student: Denoiser,
    walks: Walks,
    rows: Sequence[int],
    down: Sequence[Ladder],
    own: Tensor,
    device: torch.device,
    shape: Sequence[int],
) -> Iterator[Rungs]:
    """Take some of the teacher's walks in a student's few steps, all first steps together, then all second ones.

    down  the ladder of each walk
    own   (B,) bool: go on from where the student landed; else from where the teacher was. No gradient goes back either

    A step is Euler's, z' = x0 + (sigma' / sigma) (z - x0), and is to land where the teacher passed (trajectory
    distillation: Zhou et al. 2024, arXiv:2409.19681). What it misses there by is divided by 1 - sigma' / sigma, the
    weight of x0 in the step, so that it counts as an error of x0 at every level (Salimans and Ho 2022,
    arXiv:2202.00512, appendix G, in sigma).
    """
    told = moved(walks.told([walks.prompts[row] for row in rows]), device)
    z = walks.noise(rows, shape).to(device)
    z = z * expand(torch.tensor([ladder.sigmas[0] for ladder in down]), z)
    for i in range(max(ladder.nfe for ladder in down)):
        places = [k for k, ladder in enumerate(down) if ladder.nfe > i]
        sigma = torch.tensor([down[k].sigmas[i] for k in places], device=device)
        share = expand(torch.tensor([down[k].sigmas[i + 1] for k in places], device=device) / sigma, z)
        there = walks.at([rows[k] for k in places], [down[k].rungs[i + 1] for k in places]).to(device)
        x0 = student(z[places], sigma, some(told, places)).float()
        lands = x0 + share * (z[places] - x0)
        error = ((lands - there) / (1 - share)).square().flatten(1).mean(1)
        yield Rungs(tuple(places), error, lands)
        z = z.index_copy(
            0, torch.tensor(places, device=device), torch.where(_each(own[places], z), lands.detach(), there)
        )


def some(cond: Cond, places: Sequence[int]) -> Cond:
    """The conditions of some of the images."""
    chosen = torch.as_tensor(places, device=cond.states.device)
    return Cond(cond.states[chosen], cond.mask[chosen], cond.pooled[chosen])


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a step of the distillation learns: walks of the teacher, down every ladder in turn.

    learned  the first so many walks are for training, the others for the audit
    """

    backbone: Backbone
    walks: Walks
    ladders: tuple[Ladder, ...]
    learned: int
    seed: int

    def loss(self, model: nn.Module, numbers: list[int], _: int) -> tuple[Tensor, dict[str, float]]:
        """The mean, over every step of the draws of these numbers, of its error's root, rounded at the tip.

        A pseudo-Huber loss per image (Song and Dhariwal 2023, arXiv:2310.14189, section 3.3): steps which miss by
        little weigh as much as those which miss by much.

        Figures: the root mean square error after the last step of each count of evaluations.
        """
        down = [self.ladders[number % len(self.ladders)] for number in numbers]
        own = torch.tensor([float(torch.rand((), generator=generator(self.seed, "own", n))) < OWN for n in numbers])
        found, ends = [], dict[int, Tensor]()
        rows = [self.row(number) for number in numbers]
        for part in descend(model, self.walks, rows, down, own, self.backbone.device, self.backbone.shape):
            found.append((part.error + ROUND**2).sqrt() - ROUND)
            ends |= dict(zip(part.places, part.error.detach(), strict=True))
        figures = {}
        for ladder in self.ladders:
            mine = [float(ends[k]) for k, each in enumerate(down) if each is ladder]
            figures[f"miss_{ladder.nfe}"] = math.sqrt(fmean(mine)) if mine else 0.0
        return torch.cat(found).mean(), figures

    def row(self, number: int) -> int:
        """The walk of the draw of that number: each once in a round of each count, in an order of its own."""
        turn, place = divmod(number // len(self.ladders), self.learned)
        return _order(self.learned, self.seed, turn)[place]

    @torch.no_grad()
    def ends(self, student: Denoiser, ladder: Ladder, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where a student's own walks end by one ladder, and how far from the teacher's: root mean square."""
        own = torch.ones(len(rows), dtype=torch.bool)
        down = [ladder] * len(rows)
        *_, last = descend(student, self.walks, rows, down, own, self.backbone.device, self.backbone.shape)
        return last.z.cpu(), last.error.sqrt().cpu()

    def missed(self, student: Denoiser, ladder: Ladder, *, together: int = 16) -> Tensor:
        """(n,) how far from the teacher's end the held-out walks end by one ladder: root mean square of the latent."""
        rows = range(self.learned, len(self.walks))
        parts = [rows[start : start + together] for start in range(0, len(rows), together)]
        return torch.cat([self.ends(student, ladder, part)[1] for part in parts])

    def apart(self) -> Tensor:
        """(n,) how far from one another the teacher's ends of held-out walks lie, each from the next."""
        z = self.walks.ends(range(self.learned, len(self.walks)))
        return (z - z.roll(1, 0)).square().flatten(1).mean(1).sqrt()


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int) -> list[int]:
    found: list[int] = torch.randperm(count, generator=generator(seed, "order", turn)).tolist()
    return found


def _each(own: Tensor, z: Tensor) -> Tensor:
    return own.to(z.device).reshape(-1, *[1] * (z.ndim - 1))
