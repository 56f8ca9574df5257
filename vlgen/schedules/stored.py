"""Stored: levels that were searched for a network, as the file beside its weights keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

FILE = "schedules.json"  # beside a model's model_index.json, or an adapter's adapter.json


@dataclass(frozen=True)
class Stored:
    """Levels of one solver, and what they were searched for: with anything else they are not the best.

    solver    as it is called by name, options and all: "ipndm:3,last=2"
    kernel    "gaussian", "pfgmpp:128"
    guidance  scale, the ends of the interval of levels that it acts in, and rescale
    sigmas    (n + 1,)  decreasing, the last 0
    made      how they were found: for people to read, but for model_fingerprint, which tells whose they are
    """

    solver: str
    kernel: str
    guidance: tuple[float, float, float, float]
    sigmas: tuple[float, ...]
    made: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        falls = all(above > below for above, below in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(self.sigmas) < 2 or not falls or self.sigmas[-1] != 0 or not math.isfinite(self.sigmas[0]):
            raise ValueError(
                f"the levels {list(self.sigmas)} of {self.solver} do not fall from a finite one to 0: search them again"
            )

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def key(self) -> tuple[object, ...]:
        """What two entries of one file differ in."""
        return self.solver, self.kernel, self.guidance, self.steps

    def of(self, fingerprint: str) -> bool:
        """Whether they were searched for these very weights; levels that do not say it are taken at their word."""
        return self.made.get("model_fingerprint", fingerprint) == fingerprint

    @property
    def levels(self) -> Tensor:
        """(n + 1,) float32"""
        return torch.tensor(self.sigmas, dtype=torch.float64).float()


class Carried(Protocol):
    """What `home` reads of an adapter on a model."""

    @property
    def folder(self) -> str: ...
    @property
    def scale(self) -> float: ...


def home(model: Path, carried: Iterable[Carried]) -> Path | None:
    """The folder whose levels a network may use: its adapter's, at scale 1, or else the model's own.

    None for a network that is neither: several adapters, one at another scale, or one that was not saved yet.
    """
    acting = [each for each in carried if each.scale != 0]
    if not acting:
        return model
    return Path(acting[0].folder) if len(acting) == 1 and acting[0].scale == 1 and acting[0].folder else None


def stored(place: Path | None) -> list[Stored]:
    """The levels in a model's or an adapter's folder, or in a file; none where there is no such file.

    Raises ValueError for a file that is not what `kept` writes.
    """
    if place is None or not (file := place / FILE if place.is_dir() else place).is_file():
        return []
    try:
        return [_read(entry) for entry in json.loads(file.read_text(encoding="utf-8"))["schedules"]]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        said = f": {error}" if isinstance(error, ValueError) and "search them again" in str(error) else ""
        raise ValueError(f"{file} is not a list of searched schedules{said}: delete it, or search them again") from None


def kept(old: Sequence[Stored], new: Sequence[Stored]) -> str:
    """The text of a file with both; new entries take the place of old ones for the same settings."""
    entries = sorted({each.key: each for each in (*old, *new)}.values(), key=lambda each: each.key)
    rows = [
        {
            "solver": each.solver,
            "kernel": each.kernel,
            "guidance_scale": each.guidance[0],
            "guidance_interval": [end if math.isfinite(end) else None for end in each.guidance[1:3]],
            "guidance_rescale": each.guidance[3],
            "steps": each.steps,
            "sigmas": list(each.sigmas),
            "made": dict(each.made),
        }
        for each in entries
    ]
    return json.dumps({"schedules": rows}, indent=1) + "\n"


def _read(entry: Mapping[str, object]) -> Stored:
    sigmas, made, band = entry["sigmas"], entry["made"], entry["guidance_interval"]
    if not (isinstance(sigmas, list) and isinstance(made, dict) and isinstance(band, list) and len(band) == 2):
        raise TypeError
    scale, rescale = entry["guidance_scale"], entry["guidance_rescale"]
    ends = [math.inf if end is None else end for end in band]
    guidance = (_number(scale), _number(ends[0]), _number(ends[1]), _number(rescale))
    return Stored(str(entry["solver"]), str(entry["kernel"]), guidance, tuple(map(_number, sigmas)), made)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    return float(value)
