"""Settings: what a distillation may be told, each with a default, checked as soon as it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vlgen.kernels import kernel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a distillation may be told.

    nfe              evaluations that the student may take, each count with levels of its own
    trajectories     walks of the teacher
    teacher_steps    of the teacher's solver; the model's own if not given, which searched levels suit
    guidance_scale   of the teacher, which the student learns by heart; the model's own if not given
    kernel           of the noise; the weights' own if not given
    rank, targets    of LoRA, as in `vlgen.train.Settings`
    steps, batch     optimizer steps, and trajectories in each
    lr, warmup, ema  of the optimization
    held_out         trajectories more, of other noise and texts, for the audit
    mixed            bf16 or no; what the machine computes quickly, if not given
    save_minutes     between checkpoints
    seed             of every random choice
    name, licence    for the contract; the name is the folder's where it is not given
    """

    nfe: tuple[int, ...] = (1, 2, 4)
    trajectories: int = 4000
    teacher_steps: int | None = None
    guidance_scale: float | None = None
    kernel: str | None = None
    rank: int = 16
    targets: tuple[str, ...] = ("wide", "time_emb_proj")
    steps: int = 800
    batch: int = 24
    lr: float = 1e-3
    warmup: int = 50
    ema: float = 0.99
    held_out: int = 64
    mixed: str | None = None
    save_minutes: float = 2.0
    seed: int = 0
    name: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        for name, least in (("trajectories", 1), ("rank", 1), ("steps", 1), ("batch", 1), ("warmup", 0),
                            ("held_out", 2), ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
        if not self.nfe or not all(isinstance(n, int) and 1 <= n <= 16 for n in self.nfe):
            raise ValueError(f"nfe is {self.nfe!r}: give counts of evaluations from 1 to 16, such as 1,2,4")
        for name, low, high in (("lr", 0.0, 1.0), ("ema", -1e-9, 1.0), ("save_minutes", -1e-9, math.inf)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not low < value < high:
                raise ValueError(f"{name} is {value!r}: give a number from 0{' to 1' * (high == 1)}")
        if self.mixed not in (None, "no", "bf16"):
            raise ValueError(f"mixed is {self.mixed!r}: give bf16 or no")
        if self.kernel is not None:
            object.__setattr__(self, "kernel", kernel(self.kernel).name)
        object.__setattr__(self, "nfe", tuple(sorted(set(self.nfe))))
        if "full" in self.targets:
            raise ValueError("targets full: a student is a LoRA adapter; give attention, wide or names of modules")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """The settings of keywords. Raises ValueError, naming it, for a setting that there is not."""
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}: there are {', '.join(known)}")
        return cls(**given)
