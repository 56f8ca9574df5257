"""Settings: what a fine-tune may be told, each with a default, checked as soon as it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vlgen.kernels import kernel
from vlgen.modality import modality

WEIGHTINGS = ("edm", "min-snr")
FITS = ("crop", "letterbox")
SPLITS = ("patient", "column")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a fine-tune may be told.

    rank, alpha      LoRA's: the weights' change is alpha / rank * B A; alpha is the rank where it is not given
    targets          attention, wide, text, full, or ends of modules' names; several separated by commas
    steps, epochs    optimizer steps, or passes over the training images; 1000 steps where neither is given
    batch            images of a step; accumulate, parts that it is computed in, one after the other, to save memory
    lr               learning rate; 5e-4, and for full 5e-5, where it is not given
    kernel           noise that is learned: gaussian, pfgmpp:128
    modality         of the images; where it is not given, what all reports name
    window           of CT, PET: a preset such as lung, or LOW,HIGH in HU or SUV
    fit              crop, the central square, or letterbox, the whole image with margins
    size             pixels a side; must be the model's
    split            patient: by chance, a patient on one side alone; column: as the column `split` says
    held_out         share of the patients that training does not see; 0 for none
    max_bad          rows that may be refused before it is an error
    drop             share of captions left empty, for guidance
    phrasings        texts composed of a report's facts, besides its own words
    weighting        of the loss over noise levels: edm, min-snr
    ema, warmup, weight_decay, seed   of the optimization; warmup is a tenth of the steps, at most 100, if not given
    preview_every    steps between contact sheets; 0 for one at the end
    save_minutes     between checkpoints
    audit            images that the audit makes with and without the adapter; 0 for none
    mixed            bf16 or no; what the machine computes quickly, if not given
    tensorboard      write events for TensorBoard besides log.csv
    fresh            read the adapter back in a new process before it is kept
    name, task, body_part, licence    for the contract; the name is the folder's where it is not given
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("attention",)
    steps: int | None = None
    epochs: float | None = None
    batch: int = 8
    accumulate: int = 1
    lr: float | None = None
    kernel: str = "gaussian"
    modality: str = ""
    window: str = ""
    fit: str = "crop"
    size: int | None = None
    split: str = "patient"
    held_out: float = 0.1
    max_bad: int = 10
    drop: float = 0.1
    phrasings: int = 4
    weighting: str = "edm"
    ema: float = 0.999
    warmup: int | None = None
    weight_decay: float = 0.01
    seed: int = 0
    preview_every: int = 0
    save_minutes: float = 2.0
    audit: int = 100
    mixed: str | None = None
    tensorboard: bool = False
    fresh: bool = True
    name: str = ""
    task: str = ""
    body_part: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("batch", 1), ("accumulate", 1), ("max_bad", 0), ("phrasings", 0), ("seed", 0),
                            ("preview_every", 0), ("audit", 0), ("steps", 1), ("warmup", 0), ("size", 1)):  # fmt: skip
            value = getattr(self, name)
            optional = value is None and name in ("steps", "warmup", "size")
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
        for name, low, high in (("lr", 0, 1), ("alpha", 0, math.inf), ("epochs", 0, math.inf)):
            value = getattr(self, name)
            if value is not None and not (_number(value) and low < value < high):
                raise ValueError(f"{name} is {value!r}: give a number above {low}{' and below 1' * (high == 1)}")
        for name in ("held_out", "drop", "ema"):
            value = getattr(self, name)
            if not (_number(value) and 0 <= value < 1):
                raise ValueError(f"{name} is {value!r}: give a share of at least 0 and below 1")
        for name in ("weight_decay", "save_minutes"):
            value = getattr(self, name)
            if not (_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}: give a number of at least 0")
        for name, known in (
            ("weighting", WEIGHTINGS),
            ("fit", FITS),
            ("split", SPLITS),
            ("mixed", (None, "no", "bf16")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(map(str, known))}")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs were both given: give one of them")
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate is {self.accumulate} with a batch of {self.batch}: give at most the batch")
        asked = [self.targets] if isinstance(self.targets, str) else self.targets
        object.__setattr__(
            self, "targets", tuple(t.strip() for each in asked for t in str(each).split(",") if t.strip())
        )
        object.__setattr__(self, "kernel", kernel(self.kernel).name)
        if self.modality:
            modality(self.modality)

    @classmethod
    def of(cls, given: Mapping[str, Any], *, like: str | Path | None = None) -> Settings:
        """The settings of keywords; with `like`, what they leave open is as in the contract of another adapter.

        Raises ValueError, naming it, for a setting that there is not.
        """
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}: there are {', '.join(known)}")
        if like is None:
            return cls(**given)
        from vlgen.adapter import find, read

        other = read(find(like))
        taken: dict[str, Any] = {
            name: getattr(other, name) for name in ("kernel", "modality", "task", "body_part", "licence", "targets")
        }
        if not other.full:
            taken |= {"rank": other.rank, "alpha": other.alpha}
        if other.window is not None:
            taken["window"] = f"{other.window[0]},{other.window[1]}"
        return cls(**(taken | dict(given)))

    @property
    def full(self) -> bool:
        return self.targets == ("full",)

    def resolved(self, *, name: str, images: int) -> Settings:
        """The same with a number for everything that was left open, for so many training images."""
        steps = self.steps or (math.ceil(self.epochs * images / self.batch) if self.epochs else 1000)
        return replace(
            self,
            name=self.name or name,
            alpha=self.alpha if self.alpha is not None else float(self.rank),
            steps=steps,
            epochs=None,
            lr=self.lr if self.lr is not None else 5e-5 if self.full else 5e-4,
            warmup=self.warmup if self.warmup is not None else min(100, steps // 10),
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
