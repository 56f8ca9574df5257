"""The images and reports of a recipe in memory, and batches drawn from a counter: step k is the same in every run."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from vlgen.checkpoint import sha256
from vlgen.dataset import Dataset, Row, grouped, load, split
from vlgen.modality import modality
from vlgen.pretrain.recipe import Recipe
from vlgen.report import Report
from vlgen.tensors import counter


@dataclass(frozen=True)
class Examples:
    """Images with their reports, all of one part ("train" or "test") of a recipe's sources.

    pixels   (N, 1, S, S) float16 in [-1, 1]
    reports  the N parsed reports
    rows     the N rows they came from
    source   (N,) index of the source of each
    weights  one per source: how often to draw from it
    digest   a hash of what the pixels came from: files, their times, modalities, size
    """

    pixels: Tensor
    reports: tuple[Report, ...]
    rows: tuple[Row, ...]
    source: tuple[int, ...]
    weights: tuple[float, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.rows)

    def modality(self, index: int, recipe: Recipe) -> str:
        return recipe.sources[self.source[index]].modality

    @cached_property
    def patients(self) -> dict[int, list[list[int]]]:
        """Source -> the rows of each of its patients, or clusters of twins."""
        found: dict[int, dict[str, list[int]]] = {}
        for index, (source, row) in enumerate(zip(self.source, self.rows, strict=True)):
            found.setdefault(source, {}).setdefault(row.patient or str(row.file), []).append(index)
        return {source: list(patients.values()) for source, patients in sorted(found.items())}


def rows(recipe: Recipe, stage: str, part: str) -> Iterator[tuple[int, Row]]:
    """(source index, row) of everything that a stage learns from, patients split as the recipe says."""
    shares = {"train": 1 - recipe.held_out, "test": recipe.held_out}
    for index, source in enumerate(recipe.sources):
        if source.weights.get(stage):
            for row in split(_members(source.folder, source.only, source.modality), shares, recipe.seed)[part]:
                yield index, row


@cache
def _members(folder: Path, only: str, kind: str) -> list[Row]:
    """The rows of a source, each with its patient or its cluster of twins; read once in a process."""
    chosen = [row for row in Dataset(folder) if only in ("", row.source)]
    if not chosen:
        raise ValueError(f"{folder} has no row of source {only!r}: look at its metadata")
    return grouped(chosen, modality(kind))


def gather(recipe: Recipe, stage: str, part: str, folder: Path) -> Examples:
    """Read the images of a stage, once: they are kept in `folder` as one file, under a hash of what they are.

    Raises ValueError where the part is empty, and with the line of a row whose image cannot be read: mend or remove it.
    None is ever replaced.
    """
    from safetensors.torch import load_file, save_file

    found = list(rows(recipe, stage, part))
    if not found:
        raise ValueError(f"no patient of stage {stage} is in the part {part}: change held_out")
    kinds = [recipe.sources[index].modality for index, _ in found]
    stats = [(row.file.resolve(), row.file.stat()) for _, row in found]
    stamp = [[str(f), s.st_size, s.st_mtime_ns, kind] for (f, s), kind in zip(stats, kinds, strict=True)]
    digest = hashlib.sha256(json.dumps([recipe.size, stamp]).encode()).hexdigest()[:16]
    cache = folder / f"pixels-{part}-{digest}.safetensors"
    if cache.is_file():
        pixels = load_file(cache)["pixels"]
    else:
        pixels = torch.empty(len(found), 1, recipe.size, recipe.size, dtype=torch.float16)
        for k, (index, row) in enumerate(found):
            pixels[k] = load(row, modality(recipe.sources[index].modality), recipe.size)
        folder.mkdir(parents=True, exist_ok=True)
        aside = cache.with_suffix(".tmp")
        save_file({"pixels": pixels}, aside)
        aside.replace(cache)
    weights = tuple(s.weights.get(stage, 0.0) for s in recipe.sources)
    reports = tuple(Report.parse(row.text) for _, row in found)
    return Examples(pixels, reports, tuple(row for _, row in found), tuple(i for i, _ in found), weights, digest)


def stamp(recipe: Recipe, stage: str, train: Examples, *files: Path) -> str:
    """The sha256 of all that the result of a stage depends on: its part of the recipe, the rows, files from upstream.

    The rows count by name and report, not by folder or time: a data folder may move to another machine.
    """
    # `steps` is left out on purpose: a run may be lengthened, and the cosine is then another from there on
    facts = asdict(recipe.training[stage])
    for name in ("steps", "save_minutes", "sheet_minutes"):
        del facts[name]
    sources = [(s.folder.name, s.modality, s.weights[stage], s.only) for s in recipe.sources if s.weights.get(stage)]
    listed = [
        (i, str(row.file.relative_to(recipe.sources[i].folder)), row.text)
        for i, row in zip(train.source, train.rows, strict=True)
    ]
    shaping = {name: value for name, value in recipe.options[stage].items() if name not in ("defaults", "sheet")}
    parts = [facts, shaping, recipe.seed, recipe.size, recipe.held_out, sources, listed]
    parts.append([sha256(file) for file in files])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def draw(examples: Examples, batch: int, seed: int, step: int) -> list[int]:
    """The indices of the batch of one step: a source by its weight, a patient of it, one of the patient's images.

    All from a counter. Patients count alike, so that ten copies of an image weigh no more than one.
    """
    random_ = random.Random(counter(seed, "batch", step))
    sources = list(examples.patients)
    chosen = random_.choices(sources, [examples.weights[s] for s in sources], k=batch)
    return [random_.choice(random_.choice(examples.patients[source])) for source in chosen]
