"""Few steps: how real a student's images are, and what one costs, beside its teacher at few and at many evaluations."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.adapter import distilled
from vlgen.backbone import Backbone, load
from vlgen.benchmark.halves import halves_of
from vlgen.dataset import texts
from vlgen.features import Extractor, extractor
from vlgen.files import compact, store
from vlgen.generate import denoiser, illustrate
from vlgen.metrics.distribution import bootstrap, frechet, mmd
from vlgen.plan import plan
from vlgen.tensors import counter

MANY = 20  # steps of the teacher, with guidance: what the others are compared with
DRAWS = 100  # of a bootstrap
Interval = tuple[float, float, float]  # the figure, and its 95 % bootstrap interval


@dataclass(frozen=True)
class Way:
    """A way of making images: the model alone or with the student, in so many steps, with so much guidance.

    None is the default of the one that makes them
    """

    who: str
    steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class FewStep:
    """The images of one way beside real ones, n of each, and the cost of one.

    frechet, kernel_distance  to each half of the real images, their mean
    reference                 the same figures between the two halves
    ratio                     of the Frechet distance to that of the model in 20 steps with guidance, same seeds, texts
    wall_ms, cpu_ms           of one image, its text states ready, decoding included: the fastest of `repeats`
    """

    way: Way
    steps: int
    nfe: int
    guidance_scale: float
    n: int
    frechet: Interval
    kernel_distance: Interval
    ratio: Interval
    reference: tuple[float, float]
    wall_ms: float
    cpu_ms: float
    threads: int


@dataclass
class FewStepStudy:
    """What a student of few evaluations is worth; `ways` says what is compared, `run` yields a row for each.

    real     folder of held-out images; reports: of training images, where the texts come from
    adapter  the student: an adapter that says that it is distilled
    count    images of each way; at most half of the real ones, which they are compared with
    folder   keeps each way's features, so that a repeated study goes on from where it was
    """

    real: str | Path
    reports: str | Path
    adapter: str
    model: str = "mini"
    count: int = 200
    features: str = "imagenet"
    repeats: int = 10
    seed: int = 0
    folder: Path | None = None

    def ways(self) -> list[Way]:
        """All that is compared; the second is what the ratios are to."""
        counts = sorted(self._counts)
        found = [Way("model"), Way("model", MANY)]
        for n in counts:
            found += [Way("model", n), Way("model", n, 1.0)]
        return found + [Way("student", n) for n in counts]

    def run(self, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Iterator[FewStep]:
        """A row for each way, in their order; images that the folder keeps the features of are not made again."""
        real, many = self.halves, self._features(Way("model", MANY), progress)
        reference = frechet(*real), mmd(*real)
        for way in self.ways():
            mine = self._features(way, progress)
            todo = plan(self._backbone(way), self.texts[0], seeds=[0], **_settings(way))
            wall, cpu = self._cost(way)
            yield FewStep(
                way,
                todo.steps,
                todo.nfe,
                todo.guidance_scale,
                len(mine),
                self._figure(lambda a, b, x: (frechet(a, x) + frechet(b, x)) / 2, mine),
                self._figure(lambda a, b, x: (mmd(a, x) + mmd(b, x)) / 2, mine),
                self._figure(_ratio, torch.stack([mine, many], 1)),
                reference,
                1000 * wall,
                1000 * cpu,
                torch.get_num_threads(),
            )

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Features of n real images and of n others, of other patients."""
        return halves_of(self.real, self.count, self.seed, self._eye)

    @cached_property
    def texts(self) -> list[str]:
        """The reports of the images, one each."""
        return texts(self.reports, len(self.halves[0]), self.seed)

    @cached_property
    def _eye(self) -> Extractor:
        return extractor(self.features)

    @cached_property
    def _model(self) -> Backbone:
        return load(self.model)

    @cached_property
    def _student(self) -> Backbone:
        found = load(self.model, adapter=self.adapter)
        if distilled(found.carried.values()) is None:
            raise ValueError(f"adapter {self.adapter} does not say that it is distilled: give one of vlgen distill")
        return found

    @property
    def _counts(self) -> Sequence[int]:
        student = distilled(self._student.carried.values())
        assert student is not None
        return tuple(student.levels)

    def _backbone(self, way: Way) -> Backbone:
        return self._student if way.who == "student" else self._model

    def _figure(self, measure: Callable[[Tensor, Tensor, Tensor], float], mine: Tensor) -> Interval:
        low, high = bootstrap(measure, *self.halves, mine, draws=DRAWS, seed=self.seed, center=True)
        return measure(*self.halves, mine), low, high

    def _features(self, way: Way, progress: Callable[[str, int, int], None]) -> Tensor:
        """The features of a way's images (n, d): kept ones, or new ones, which are then kept."""
        from safetensors.torch import load as unpack
        from safetensors.torch import save

        backbone = self._backbone(way)
        todo = plan(backbone, self.texts[0], seeds=[0], **_settings(way))
        record = compact(
            {
                "model": backbone.fingerprint,
                "sha256": list(backbone.adapter_sha256),
                "scales": list(backbone.adapters.values()),
                "way": [todo.solver.name, todo.sigmas.tolist(), todo.guidance_scale, todo.kernel.name],
                "texts": [hashlib.sha256(text.encode()).hexdigest() for text in self.texts],
                "seed": self.seed,
                "features": self._eye.fingerprint,
            }
        )
        kept = (self.folder or Path()) / f"{hashlib.sha256(record.encode()).hexdigest()[:32]}.safetensors"
        if self.folder and kept.is_file():
            return unpack(kept.read_bytes())["features"]
        found, seeds = [], [counter("fewstep", self.seed, place) for place in range(len(self.texts))]
        for place, image in illustrate(backbone, self.texts, seeds=seeds, **_settings(way)):
            found.append(self._eye.see(image.shown()))
            progress(f"{way.who}, {todo.nfe} evaluations", place + 1, len(self.texts))
        result = torch.cat(found)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            store(kept, save({"features": result}))
        return result

    def _cost(self, way: Way) -> tuple[float, float]:
        """Wall and CPU seconds of one image, its text states ready: the fastest of several after a warm-up."""
        backbone = self._backbone(way)
        todo = plan(backbone, self.texts[0], seeds=[0], **_settings(way))
        best = (float("inf"), float("inf"))
        with torch.inference_mode():
            cond = backbone.embed([todo.prompt])
            without = backbone.embed([""]) if todo.guidance_scale != 1 else None
            for k in range(self.repeats + 1):
                wall, cpu = time.monotonic(), time.process_time()
                z = todo.kernel.noise(backbone.shape, float(todo.sigmas[0]), [k]).to(backbone.device)
                *_, last = todo.solver(denoiser(backbone, todo, cond, without), z, todo.sigmas, seeds=[k])
                backbone.decode(last.x).cpu()
                spent = (time.monotonic() - wall, time.process_time() - cpu)
                best = (min(best[0], spent[0]), min(best[1], spent[1])) if k else best
        return best


def _ratio(a: Tensor, b: Tensor, both: Tensor) -> float:
    mine, many = both.unbind(1)
    return (frechet(a, mine) + frechet(b, mine)) / (frechet(a, many) + frechet(b, many))


def _settings(way: Way) -> dict[str, Any]:
    return {"steps": way.steps, "guidance_scale": way.guidance_scale}
