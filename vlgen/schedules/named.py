"""Named schedules: levels by a formula, or at training timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def karras(n: int, lo: float, hi: float, *, rho: float = 7.0) -> Tensor:
    """Levels uniform in sigma^(1/rho): the larger rho, the more steps near the clean image.

    Karras et al. 2022, arXiv:2206.00364, eq. 5.
    """
    _check(n, lo, hi)
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"rho = {rho} was given, but rho must be finite and above 0: use 7.")
    return _close((hi ** (1 / rho) + _ramp(n) * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho)


def exponential(n: int, lo: float, hi: float) -> Tensor:
    """Levels uniform in log sigma: every step removes the same share of the noise."""
    _check(n, lo, hi)
    return _close(torch.exp(math.log(hi) + _ramp(n) * (math.log(lo) - math.log(hi))))


def uniform(n: int, lo: float, hi: float) -> Tensor:
    """Levels uniform in sigma."""
    _check(n, lo, hi)
    return _close(hi + _ramp(n) * (lo - hi))


def trailing(n: int, table: Tensor) -> Tensor:
    """Levels at evenly spaced training timesteps, counted back from the last, so that sampling starts in full noise.

    table  (T,)  the sigmas the network was trained on, increasing

    Lin et al. 2023, arXiv:2305.08891, section 3.3 and table 2: timestep round(T * (n - i) / n) in 1 ... T at step i.
    """
    table = table.detach().double().cpu()
    if table.ndim != 1 or len(table) < 1 or not bool(table.isfinite().all() and (table > 0).all()):
        raise ValueError("the table of trained sigmas must be one row of finite values above 0: pass the model's own.")
    if not bool((table.diff() > 0).all()):
        raise ValueError("the table of trained sigmas must increase: pass it from the least noise to the most.")
    if not 1 <= n <= len(table):
        raise ValueError(
            f"{n} steps were asked of a table of {len(table)} trained sigmas: use 1 to {len(table)} steps."
        )
    timesteps = torch.round(len(table) - torch.arange(n, dtype=torch.float64) * (len(table) / n))
    return _close(table[timesteps.long() - 1])


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "karras": karras,
    "exponential": exponential,
    "uniform": uniform,
    "trailing": trailing,
}


def schedule(name: str, n: int, lo: float, hi: float, table: Tensor | None = None) -> Tensor:
    """The schedule by its name, n steps from hi down to lo and then 0.

    table  (T,)  needed by "trailing" alone, which picks from it and therefore starts at its largest sigma
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown: use one of {', '.join(SCHEDULES)}.")
    _check(n, lo, hi)
    if name != "trailing":
        return SCHEDULES[name](n, lo, hi)
    if table is None:
        raise ValueError(
            'schedule "trailing" was asked for without a table: pass the model\'s trained sigmas as table.'
        )
    sigmas = trailing(n, table)
    if not math.isclose(float(sigmas[0]), hi, rel_tol=1e-3):  # a start elsewhere would belong to other noise than x has
        raise ValueError(
            f'schedule "trailing" starts at the largest trained sigma {float(sigmas[0]):g}, but hi = {hi:g} was given: '
            "use another schedule to start there."
        )
    return sigmas


def _check(n: int, lo: float, hi: float) -> None:
    if n < 1:
        raise ValueError(f"{n} steps were asked for: use at least 1.")
    if not (math.isfinite(hi) and 0 < lo < hi):  # NaN fails this too
        raise ValueError(f"sigmas from {lo} to {hi} were given: use finite values with 0 < lo < hi.")


def _ramp(n: int) -> Tensor:
    """0 to 1 in n points; 0 alone for n = 1."""
    return torch.arange(n, dtype=torch.float64) / max(n - 1, 1)


def _close(levels: Tensor) -> Tensor:
    """Levels with the final 0, rounded once."""
    return torch.cat([levels, levels.new_zeros(1)]).float()
