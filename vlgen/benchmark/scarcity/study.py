"""The study: one folder, split once, for trainings on ever more of its images."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlgen.adapter import CONTRACT, read
from vlgen.backbone import Backbone
from vlgen.dataset import Dataset, Row
from vlgen.modality import Modality
from vlgen.tensors import counter
from vlgen.train.job import Job, bounded, job, kind_of
from vlgen.train.loop import Step
from vlgen.train.pictures import LEAST
from vlgen.train.settings import Settings
from vlgen.train.stash import private
from vlgen.train.survey import Survey, survey
from vlgen.train.tune import check

ADAPTER, FULL = "adapter", "full"
SIZES = (25, 50, 100, 200, 500)
GIVEN: Mapping[str, Any] = {"rank": 8, "targets": ("wide",), "steps": 400}  # where nothing else is asked for


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """A study with everything resolved: the same held-out images for trainings on ever more of the others.

    data      its rows are the held-out ones first, and then the training ones in an order of chance, each patient's
              together: a training on N images takes the held-out ones and the first N of the others
    whole     the job of all of them
    found     the survey of all of them
    settings  of the adapter and of the full fine-tune
    sizes     numbers of training images, rising
    """

    backbone: Backbone
    data: Dataset
    whole: Job
    found: Survey
    settings: Mapping[str, Settings]
    sizes: tuple[int, ...]
    count: int
    out: Path

    @property
    def cache(self) -> Path:
        """Where all trainings keep what is computed of the images."""
        return self.out / "cache"

    @property
    def kind(self) -> Modality:
        return self.whole.kind

    def folder(self, size: int, kind: str) -> Path:
        """Where one training's result lies."""
        return self.out / f"{kind}-{size}"

    def finished(self, size: int, kind: str) -> bool:
        """Whether one training is over, with its audit."""
        folder = self.folder(size, kind)
        if not (folder / CONTRACT).is_file():
            return False
        contract = read(folder)
        return contract.audit.get("images") == self.count and contract.steps == self.settings[kind].steps

    def part(self, size: int) -> Dataset:
        """What a training on so many images is given."""
        return _with(self.data, self.data.rows[: len(self.whole.test) + size])

    def job(self, size: int, kind: str) -> Job:
        """What a training on so many images makes of it."""
        n = len(self.whole.test) + size
        cut = replace(
            self.found, rows=self.found.rows[:n], digests=self.found.digests[:n], thumbs=self.found.thumbs[:n]
        )
        return job(self.backbone, self.part(size), self.settings[kind], self.kind, cut, self.folder(size, kind))


def study(
    backbone: Backbone,
    data: Dataset,
    *,
    out: str | Path,
    sizes: Sequence[int] = SIZES,
    count: int = 100,
    full_lr: float | None = None,
    **settings: Any,
) -> Generator[Step, None, Study]:
    """Read and split a folder once for all trainings, yielding progress.

    sizes     numbers of training images; a smaller set lies inside every larger one, patients come whole but for the
              last of a set, and all see the same held-out images
    count     images that the base and every training make, of the held-out reports' own words
    full_lr   learning rate of the full fine-tune; `lr` is the adapter's
    settings  those of `vlgen.train.Settings`, for both: steps (400 if not given), batch, seed, split, ...; of the
              adapter alone: rank (8), alpha, targets (wide)

    Raises ValueError in one sentence for what cannot be done.
    """
    out, wanted = Path(out), tuple(sorted(set(sizes)))
    given = {**GIVEN, **settings, "fresh": False, "audit": count}  # each is loaded again in this process at once
    asked = Settings.of(given)
    shared = {name: value for name, value in given.items() if name not in ("rank", "alpha")}
    full = Settings.of(shared | {"targets": (FULL,), "lr": full_lr})
    if asked.full:
        raise ValueError("targets full: the study trains that besides; give the adapter's, such as attention or wide")
    if not isinstance(count, int) or count < LEAST:
        raise ValueError(f"count is {count}: give at least {LEAST} images, for below that no distance means anything")
    if not wanted or wanted[0] < 1:
        raise ValueError(f"sizes are {list(sizes)}: give numbers of training images, such as 25,50,100")
    check(backbone, asked, out)
    cache = private(private(out) / "cache")
    kind = kind_of(data, asked)
    found = yield from survey(data.rows, kind, backbone.size, asked.fit, cache)
    bounded((*data.refused, *found.refused), asked.max_bad)
    first = job(backbone, data, asked, kind, found, out)
    if len(first.test) < LEAST or len(first.train) < max(LEAST, wanted[-1]):
        raise ValueError(
            f"{len(first.train)} images are for training and {len(first.test)} held out, and a study on {wanted[-1]} "
            f"wants as many of the first and {LEAST} of either: give smaller sizes, or hold out more (--held-out)"
        )
    order = [*first.test, *nested(first.rows, first.train, asked.seed)]
    sides = ["test"] * len(first.test) + ["train"] * len(first.train)
    rows = tuple(
        replace(first.rows[k], facts={**first.rows[k].facts, "split": side})
        for k, side in zip(order, sides, strict=True)
    )
    found = Survey(rows, tuple(found.digests[k] for k in order), found.thumbs[order], found.refused)
    data = _with(data, rows)
    each = {name: replace(own, split="column", modality=kind.name) for name, own in ((ADAPTER, asked), (FULL, full))}
    whole = job(backbone, data, each[ADAPTER], kind, found, out)
    return Study(backbone, data, whole, found, each, wanted, count, out)


def nested(rows: Sequence[Row], train: Sequence[int], seed: int) -> list[int]:
    """The training rows in an order of chance, each patient's together: the first N of it are a set of N images."""
    return sorted(train, key=lambda k: (counter("scarcity", seed, rows[k].patient or rows[k].file.stem), k))


def _with(data: Dataset, rows: tuple[Row, ...]) -> Dataset:
    """The same folder with other rows."""
    found = copy.copy(data)
    object.__setattr__(found, "rows", rows)
    return found
