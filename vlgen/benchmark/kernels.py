"""Kernels: how real a model's images are under each kernel, by evaluations, and what errors do to them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.backbone import Backbone, load
from vlgen.benchmark.cells import Cell, begin, seen
from vlgen.benchmark.halves import halves_of
from vlgen.benchmark.rounding import round_unet
from vlgen.dataset import texts
from vlgen.features import Extractor, extractor
from vlgen.files import compact, store
from vlgen.metrics.distribution import bootstrap, frechet, mmd
from vlgen.plan import Plan, plan
from vlgen.tensors import counter

BUDGETS = (5, 10, 20, 40)
ERRORS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
BITS = (8, 6, 4)
TOGETHER = 8  # images of a batch
DRAWS = 100  # of a bootstrap
Interval = tuple[float, float, float]  # the figure, and its 95 % bootstrap interval


@dataclass(frozen=True)
class Fidelity:
    """The images of one cell beside real ones, n of each.

    frechet, kernel_distance  to each half of the real images, their mean
    reference                 the same figures between the two halves
    change, kernel_change     of a disturbed cell: those of it less those of the same adapter undisturbed
    moved                     of a disturbed cell: root mean square of how far an image's features went, over the
                              spread of the undisturbed ones; it has no sign, where a distance may fall as well as rise
    against, kernel_against   of another than the first adapter: those of it less those of the first in the same cell

    Differences are of images of the same seeds and reports, and their intervals draw both again together.
    """

    cell: Cell
    kernel: str
    n: int
    frechet: Interval
    kernel_distance: Interval
    reference: tuple[float, float]
    change: Interval | None = None
    kernel_change: Interval | None = None
    moved: Interval | None = None
    against: Interval | None = None
    kernel_against: Interval | None = None


@dataclass(frozen=True)
class KernelStudy:
    """Which kernels make images how real; `cells` says what is sampled, `run` samples and yields a row for each.

    real      folder of held-out images; reports: of training images, where the texts come from
    adapters  each on the model by itself, sampled under its own kernel; "none" is the model alone. The first is what
              the others are compared with: for a fair one, an adapter trained alike under the Gaussian kernel
    budgets   evaluations of the network for an image, both halves of guidance counted: the most steps that they pay
              for. Guidance 1 shows what the weights have learned
    at        the budget at which errors in sigma and rounded weights are tried
    count     images of each cell; at most half of the real ones, which they are compared with
    solver    the model's own where none is given; the levels are of the model's own schedule, never searched ones
    folder    keeps each cell's features, so that a repeated study goes on from where it was

    Every kernel gets the same seeds and reports: the same z, and under PFGM++ an s for each image besides.
    """

    real: str | Path
    reports: str | Path
    model: str = "mini"
    adapters: Sequence[str] = ("none",)
    budgets: Sequence[int] = BUDGETS
    at: int = 10
    errors: Sequence[float] = ERRORS
    bits: Sequence[int] = BITS
    count: int = 200
    guidance_scale: float = 1.0
    solver: str | None = None
    features: str = "imagenet"
    seed: int = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.adapters or len(set(self.adapters)) != len(self.adapters):
            raise ValueError("the adapters are none, or one comes twice: give each once; none is the model alone")
        if min((*self.budgets, self.at)) < 1:
            raise ValueError(f"{min((*self.budgets, self.at))} evaluations were asked for: give 1 or more")
        if wrong := [error for error in self.errors if not -0.9 <= error <= 9]:
            raise ValueError(f"an error in sigma of {wrong[0]}: give -0.9 to 9, where 0.1 is 10 % too much")
        for bits in self.bits:
            if not 2 <= bits <= 16:
                raise ValueError(f"{bits} bits were asked for: give 2 to 16")

    def cells(self) -> list[Cell]:
        """All that is sampled, an adapter after the other."""
        found = []
        for name in self.adapters:
            plain = dict.fromkeys([*self.budgets, *([self.at] if self.errors or self.bits else [])])
            found += [Cell(name, nfe) for nfe in plain]
            found += [Cell(name, self.at, error=error) for error in dict.fromkeys(self.errors) if error]
            found += [Cell(name, self.at, bits=bits) for bits in dict.fromkeys(self.bits)]
        return found

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Features of n real images and of n others, of other patients."""
        return halves_of(self.real, self.count, self.seed, self._eye)

    @cached_property
    def texts(self) -> list[str]:
        """The reports of the images, one each."""
        return texts(self.reports, len(self.halves[0]), self.seed)

    def outlook(self) -> tuple[int, float]:
        """Cells that are not there yet, and about how many seconds they take on this machine."""
        backbones = {name: self._load(name) for name in self.adapters}
        places = {cell: self._place(backbones[cell.adapter], cell) for cell in self.cells()}
        todo = [cell for cell, kept in places.items() if not (kept and kept.is_file())]
        if not todo:
            return 0, 0.0
        backbone = backbones[self.adapters[0]]
        plans = self._plans(backbone, min(self.budgets))[: min(TOGETHER, len(self.texts))]
        spent = []
        for _ in range(2):  # the first warms up
            begun = time.monotonic()
            z, told = begin(backbone, plans, 0.0)
            with torch.inference_mode():
                told(z, plans[0].sigmas[0])
                between = time.monotonic()
                self._eye.see(seen(backbone, z))
            spent = [between - begun, time.monotonic() - between]
        n, halves = len(self.texts), 1 if self.guidance_scale == 1 else 2
        return len(todo), sum(n / len(plans) * (cell.nfe / halves * spent[0] + spent[1]) for cell in todo)

    def run(self, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Iterator[Fidelity]:
        """A row for each cell, in their order; what the folder keeps is not sampled again."""
        real = self.halves
        reference = frechet(*real), mmd(*real)
        known: dict[Cell, Tensor] = {}
        for name in self.adapters:
            backbone = self._load(name)
            for cell in (cell for cell in self.cells() if cell.adapter == name):
                mine = known[cell] = self._features(backbone, cell, progress)
                base = known[Cell(name, cell.nfe)] if cell.disturbed else None
                first = Cell(self.adapters[0], cell.nfe, cell.error, cell.bits)
                other = known[first] if name != self.adapters[0] else None
                yield Fidelity(
                    cell,
                    backbone.kernel,
                    len(mine),
                    self._figure(frechet, mine),
                    self._figure(mmd, mine),
                    reference,
                    change=None if base is None else self._figure(frechet, mine, base),
                    kernel_change=None if base is None else self._figure(mmd, mine, base),
                    moved=None if base is None else self._moved(mine, base),
                    against=None if other is None else self._figure(frechet, mine, other),
                    kernel_against=None if other is None else self._figure(mmd, mine, other),
                )

    @cached_property
    def _eye(self) -> Extractor:
        return extractor(self.features)

    def _load(self, name: str) -> Backbone:
        return load(self.model, adapter=() if name == "none" else name)

    def _figure(
        self, measure: Callable[[Tensor, Tensor], float], mine: Tensor, other: Tensor | None = None
    ) -> Interval:
        """A distance to the real halves, or the difference of two sets' distances, with its interval."""

        def apart(a: Tensor, b: Tensor, s: Tensor) -> float:
            far = [(measure(a, x) + measure(b, x)) / 2 for x in s.unbind(1)]
            return far[0] - (far[1] if len(far) > 1 else 0.0)

        sets = torch.stack([mine] if other is None else [mine, other], 1)
        low, high = bootstrap(apart, *self.halves, sets, draws=DRAWS, seed=self.seed, center=True)
        return apart(*self.halves, sets), low, high

    def _moved(self, mine: Tensor, base: Tensor) -> Interval:
        def far(pairs: Tensor) -> float:
            one, other = pairs.double().unbind(1)
            spread = (other - other.mean(0)).square().sum(1).mean()
            return float(((one - other).square().sum(1).mean() / spread).sqrt())

        pairs = torch.stack([mine, base], 1)
        return far(pairs), *bootstrap(far, pairs, draws=DRAWS, seed=self.seed, center=True)

    def _plans(self, backbone: Backbone, nfe: int) -> list[Plan]:
        asked: dict[str, Any] = {"solver_name": self.solver, "guidance_scale": self.guidance_scale}
        chosen = plan(backbone, self.texts[0], seeds=[0], steps=1, schedule_name="karras", **asked).solver
        if chosen.adaptive:
            raise ValueError(f"solver {chosen.name!r} chooses its own steps: give one that takes what it is given")
        halves = 1 if self.guidance_scale == 1 else 2
        steps = max((n for n in range(1, nfe + 1) if chosen.nfe(n) * halves <= nfe), default=0)
        if not steps:
            raise ValueError(f"{nfe} evaluations do not pay for a step of {chosen.name} with its guidance: give more")
        own = str(backbone.defaults.get("schedule", "karras"))
        found = []
        for place, text in enumerate(self.texts):
            seed = counter("kernels", self.seed, place)
            try:
                found.append(plan(backbone, text, seeds=[seed], steps=steps, schedule_name=own, **asked))
            except ValueError as error:
                raise ValueError(f"report {place + 1} of {len(self.texts)}: {error}") from None
        return found

    def _place(self, backbone: Backbone, cell: Cell) -> Path | None:
        """Where the features of a cell are kept: under the hash of all that makes them."""
        if self.folder is None:
            return None
        record = compact(
            {
                "model": backbone.fingerprint,
                "adapters": list(backbone.adapters.values()),
                "sha256": list(backbone.adapter_sha256),
                "kernel": backbone.kernel,
                "cell": {**asdict(cell), "adapter": ""},
                "guidance": float(self.guidance_scale),
                "solver": str(self.solver or backbone.defaults.get("solver", "")),
                "texts": [hashlib.sha256(text.encode()).hexdigest() for text in self.texts],
                "seed": self.seed,
                "features": self._eye.fingerprint,
            }
        )
        return self.folder / f"{hashlib.sha256(record.encode()).hexdigest()[:32]}.safetensors"

    def _features(self, backbone: Backbone, cell: Cell, progress: Callable[[str, int, int], None]) -> Tensor:
        """The features of a cell's images (n, d): kept ones, or new ones, which are then kept."""
        from safetensors.torch import load as unpack
        from safetensors.torch import save

        kept = self._place(backbone, cell)
        if kept and kept.is_file():
            return unpack(kept.read_bytes())["features"]
        if cell.bits:
            backbone = self._load(cell.adapter)
            round_unet(backbone, cell.bits)
        plans, found = self._plans(backbone, cell.nfe), []
        for start in range(0, len(plans), TOGETHER):
            part = plans[start : start + TOGETHER]
            z, told = begin(backbone, part, cell.error)
            with torch.inference_mode():
                *_, last = part[0].solver(told, z, part[0].sigmas, seeds=[one.seeds[0] for one in part])
                x = seen(backbone, last.x)
            found.append(self._eye.see(x))
            progress("sampling", start + len(part), len(plans))
        result = torch.cat(found)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            store(kept, save({"features": result}))
        return result
