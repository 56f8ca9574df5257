"""Table: every solver by its name, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vlgen.solvers.adams import deis, ipndm
from vlgen.solvers.ancestral import consistency, ddim, ddpm, euler_ancestral
from vlgen.solvers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m
from vlgen.solvers.langevin import langevin, pc_ve, pc_vp
from vlgen.solvers.options import OPTIONS, read
from vlgen.solvers.runge_kutta import euler, heun, rk45
from vlgen.solvers.unipc import unipc
from vlgen.tensors import Denoise, State


@dataclass(frozen=True)
class Solver:
    """A solver and what is known of it; call it as solver(denoise, x, sigmas, seeds=seeds).

    order        of the global error in the step size, on even levels; of a stochastic solver, that of its marginals. 0
                 where more steps do not make the error vanish
    evaluations  of the network per step; the last step takes one. Of an adaptive solver, per step of its own
    stochastic   draws noise on the way, so needs seeds and a Gaussian kernel
    adaptive     chooses its own steps, so that only State.nfe knows the evaluations
    """

    name: str
    run: Callable[..., Iterator[State]]
    order: int
    evaluations: int
    stochastic: bool
    paper: str
    adaptive: bool = False

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, *, seeds: Sequence[int] | None = None
    ) -> Iterator[State]:
        """Walk from x down sigmas; seeds are read by stochastic solvers only."""
        return self.run(denoise, x, sigmas, **({"seeds": seeds} if self.stochastic else {}))

    @property
    def kernels(self) -> str:
        """The kernels that it may walk down from."""
        return "gaussian" if self.stochastic else "gaussian, pfgmpp"

    def nfe(self, steps: int) -> int:
        """Network evaluations of a walk of so many steps; of an adaptive solver, the fewest."""
        if self.adaptive:
            return 1 + (self.evaluations if steps > 1 else 0)
        return (steps - 1) * self.evaluations + 1

    def levels(self, sigmas: Tensor) -> list[float]:
        """The noise level of every evaluation that a walk down sigmas takes, in order.

        By walking one black pixel, whose denoiser costs nothing; an adaptive solver takes at least these.
        """
        asked: list[float] = []

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(float(sigma))
            return x * 0

        for _ in self(denoise, torch.zeros(1, 1, 1, 1, dtype=torch.float64), sigmas, seeds=[0]):
            pass
        return asked


@dataclass(frozen=True)
class _Family:
    """A solver before its options are set; what depends on them is a function of them."""

    run: Callable[..., Iterator[State]]
    paper: str
    order: Callable[[dict[str, float]], int]
    evaluations: Callable[[dict[str, float]], int]
    stochastic: Callable[[dict[str, float]], bool]
    adaptive: bool = False

    def solver(self, name: str, given: dict[str, float]) -> Solver:
        values = {key: option.default for key, option in OPTIONS[name.partition(":")[0]].items()} | given
        run = partial(self.run, **given) if given else self.run
        parts = self.order(values), self.evaluations(values), self.stochastic(values)
        return Solver(name, run, *parts, self.paper, self.adaptive)


def _family(
    run: Callable[..., Iterator[State]],
    paper: str,
    order: int | Callable[[dict[str, float]], int],
    *,
    evaluations: int | Callable[[dict[str, float]], int] = 1,
    stochastic: bool | str = False,
    adaptive: bool = False,
) -> _Family:
    """A family from plain facts; stochastic may name the option that makes it so when above 0."""

    def fact(value: int | Callable[[dict[str, float]], int]) -> Callable[[dict[str, float]], int]:
        return value if callable(value) else lambda values: value

    def draws(values: dict[str, float]) -> bool:
        return values[stochastic] > 0 if isinstance(stochastic, str) else stochastic

    return _Family(run, paper, fact(order), fact(evaluations), draws, adaptive)


_SONG = "Song et al. 2021, arXiv:2011.13456"
_LU = "Lu et al. 2022, arXiv:2211.01095"
_KARRAS = "Karras et al. 2022, arXiv:2206.00364"
_ZHANG = "Zhang and Chen 2023, arXiv:2204.13902"
_HO = "Ho et al. 2020, arXiv:2006.11239"
_FAMILIES: dict[str, _Family] = {
    "euler": _family(euler, _KARRAS, 1),
    "ddim": _family(ddim, "Song et al. 2021, arXiv:2010.02502", 1, stochastic="eta"),
    "ddpm": _family(ddpm, _HO, 1, stochastic=True),
    "euler_ancestral": _family(euler_ancestral, _HO, 1, stochastic="eta"),
    "heun": _family(heun, _KARRAS, 2, evaluations=2, stochastic="churn"),
    "dpmpp_2m": _family(dpmpp_2m, _LU, 2),
    "dpmpp_2m_sde": _family(dpmpp_2m_sde, _LU, 2, stochastic="eta"),
    "dpmpp_3m": _family(dpmpp_3m, _LU, lambda values: 3 if values["curvature"] == 1 else 2),
    "unipc": _family(unipc, "Zhao et al. 2023, arXiv:2302.04867", lambda values: min(int(values["order"]) + 1, 3)),
    "deis": _family(deis, _ZHANG, lambda values: int(values["order"])),
    "ipndm": _family(ipndm, _ZHANG, lambda values: int(values["order"])),
    "langevin": _family(
        langevin,
        "Song and Ermon 2019, arXiv:1907.05600",
        0,
        evaluations=lambda values: int(values["each"]),
        stochastic=True,
    ),
    "pc_ve": _family(
        pc_ve,
        _SONG,
        lambda values: 0 if values["corrections"] else 1,
        evaluations=lambda values: 1 + int(values["corrections"]),
        stochastic=True,
    ),
    "pc_vp": _family(
        pc_vp,
        _SONG,
        lambda values: 0 if values["corrections"] else 1,
        evaluations=lambda values: 1 + int(values["corrections"]),
        stochastic=True,
    ),
    "rk45": _family(rk45, "Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3", 5, evaluations=6, adaptive=True),
    "consistency": _family(consistency, "Song et al. 2023, arXiv:2303.01469", 0, stochastic=True),
}
SOLVERS: dict[str, Solver] = {name: family.solver(name, {}) for name, family in _FAMILIES.items()}


def solver(name: str) -> Solver:
    """The solver by its name, with its options after a colon.

    "ddim:0.5" sets the first option, which is eta; "heun:churn=40,noise=1.003" names them. `samplers` lists them all.
    """
    family, colon, options = name.partition(":")
    if family not in _FAMILIES:
        raise ValueError(
            f"solver {name!r} is unknown: use one of {', '.join(SOLVERS)}, with options after a colon such as "
            '"ddim:0.5" or "heun:churn=40".'
        )
    return _FAMILIES[family].solver(name, read(family, options) if colon else {})


def nfe(name: str, steps: int) -> int:
    """Network evaluations that the named solver takes for so many steps; of an adaptive one, the fewest."""
    return solver(name).nfe(steps)


def samplers() -> list[dict[str, str | int | bool]]:
    """What is known of every solver, one row each, for people to choose from and machines to read.

    Keys: name, order, evaluations (a step), stochastic, kernels, options (with their defaults), paper.
    """
    return [
        {
            "name": each.name,
            "order": each.order,
            "evaluations": each.evaluations,
            "stochastic": each.stochastic,
            "kernels": each.kernels,
            "options": ",".join(f"{key}={option.default:g}" for key, option in OPTIONS[each.name].items()),
            "paper": each.paper,
        }
        for each in SOLVERS.values()
    ]


class HasKernelName(Protocol):
    """What `check_kernel` reads of a kernel."""

    @property
    def name(self) -> str: ...
    @property
    def D(self) -> float: ...


def check_kernel(solver: Solver, kernel: HasKernelName) -> None:
    """Refuse a solver that draws Gaussian noise on the way down from a PFGM++ prior.

    Its fresh noise replaces the start's, so that within some steps the walk is the Gaussian kernel's, in silence.
    """
    if solver.stochastic and math.isfinite(kernel.D):
        allowed = ", ".join(each.name for each in SOLVERS.values() if not each.stochastic)
        raise ValueError(
            f"solver {solver.name!r} adds Gaussian noise at every step, which erases kernel {kernel.name!r}: use a "
            f"deterministic solver ({allowed}) or kernel 'gaussian'."
        )
