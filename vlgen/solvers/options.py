"""Options: what may be set of each solver, in which range, and how it is written in a solver's name."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One number that a solver takes.

    default  an int where only whole numbers make sense
    allowed  the range in words, for the message of a refusal
    """

    default: float
    lo: float
    hi: float
    allowed: str

    def holds(self, value: float) -> bool:
        """Whether the value is of the range and of the kind; NaN never is."""
        whole = not isinstance(self.default, int) or (math.isfinite(value) and value == int(value))
        return self.lo <= value <= self.hi and whole


_ETA = Option(1.0, 0.0, 1.0, "0 (deterministic) to 1 (ancestral)")
_CORRECTED = {
    "snr": Option(0.16, 1e-6, 1.0, "a signal-to-noise ratio above 0 and up to 1"),
    "corrections": Option(1, 0, 100, "a whole number from 0 to 100"),
}
# The first option of a solver may be written without its name: "ddim:0.5" is "ddim:eta=0.5".
OPTIONS: dict[str, dict[str, Option]] = {
    "euler": {},
    "ddim": {"eta": Option(0.0, 0.0, 1.0, _ETA.allowed)},
    "ddpm": {"v": Option(0.0, 0.0, 1.0, "0 (the posterior's variance) to 1 (the forward step's)")},
    "euler_ancestral": {"eta": _ETA},
    "heun": {
        "churn": Option(0.0, 0.0, math.inf, "0 (deterministic) or more, such as 40"),
        "tmin": Option(0.0, 0.0, math.inf, "a noise level of 0 or more"),
        "tmax": Option(math.inf, 0.0, math.inf, "a noise level of 0 or more"),
        "noise": Option(1.0, 0.5, 2.0, "0.5 to 2, such as 1.003"),
    },
    "dpmpp_2m": {},
    "dpmpp_2m_sde": {"eta": _ETA},
    "dpmpp_3m": {"curvature": Option(1.0, 0.0, 1.0, "0 to 1, where 1 is third order")},
    "unipc": {"order": Option(2, 1, 3, "1, 2 or 3")},
    "deis": {"order": Option(3, 1, 4, "1, 2, 3 or 4")},
    "ipndm": {"order": Option(4, 1, 4, "1, 2, 3 or 4"), "last": Option(1, 1, 4, "1, 2, 3 or 4")},
    "langevin": {
        "each": Option(5, 1, 1000, "a whole number of steps per level from 1 to 1000"),
        "step": Option(0.2, 1e-6, 2.0, "a share of sigma^2 above 0 and up to 2"),
    },
    "pc_ve": _CORRECTED,
    "pc_vp": _CORRECTED,
    "rk45": {"tol": Option(1e-3, 1e-8, 0.1, "1e-8 to 0.1")},
    "consistency": {"lo": Option(0.0, 0.0, math.inf, "the network's least noise level, 0 or more")},
}


def check(family: str, **values: float) -> None:
    """Refuse values outside their ranges."""
    for name, value in values.items():
        option = OPTIONS[family][name]
        if not option.holds(value):
            raise ValueError(f"{name} = {value} was given to {family}: use {option.allowed}.")


def read(family: str, text: str) -> dict[str, float]:
    """The options of a solver as its name has them after the colon: "0.5", "churn=40,noise=1.003", "4".

    Raises ValueError for an option that the solver does not have, that is no number, or that is out of its range.
    """
    known = OPTIONS[family]
    found: dict[str, float] = {}
    for place, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = next(iter(known), "") if place == 0 else "", name
        name = name.strip()
        number = _number(value)
        if number is None or name not in known or name in found:
            raise ValueError(f"option {part.strip()!r} was given to solver {family}: use {usage(family)}.")
        check(family, **{name: number})
        found[name] = int(number) if isinstance(known[name].default, int) else number
    return found


def usage(family: str) -> str:
    """How a solver is written, with its options and their defaults."""
    options = ",".join(f"{name}={option.default:g}" for name, option in OPTIONS[family].items())
    return f'"{family}:{options}"' if options else f'"{family}", which has none'


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # answered by the caller, with everything that is allowed
