"""Pretraining: folders of images and reports become a model of one's own, in stages that resume when repeated."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vlgen.dataset import Dataset
from vlgen.pretrain.examples import gather, rows
from vlgen.pretrain.recipe import Recipe
from vlgen.train.loop import Step, device, run

ALL = "all"  # the folder that holds every modality

__all__ = ["Recipe", "Step", "measure", "outline", "parts", "pretrain"]


def pretrain(recipe: Recipe, folder: str | Path, *, stages: Sequence[str] | None = None) -> Iterator[Step]:
    """Train the stages of a recipe one after the other, yielding every step; repeat the call to resume.

    The finished model is folder/parts: a folder that `vlgen.load` and `--model` take. Each stage keeps its log.csv,
    sheets and checkpoints in folder/STAGE, and everything that was computed once in folder/cache.
    """
    folder = Path(folder)
    for stage in stages or recipe.stages:
        train, test = (gather(recipe, stage, part, folder / "cache") for part in ("train", "test"))
        task = import_module(f"vlgen.pretrain.{stage}").task(recipe, train, test, folder / "parts", device())
        yield from run(task, recipe.training[stage], folder / stage, stage=stage, seed=recipe.seed)


def outline(recipe: Recipe, stages: Sequence[str] | None = None) -> Iterator[str]:
    """What a recipe would do, line by line: parameters, steps, rows, passes, refusals.

    Images are read only where no patients are known, to find twins.
    """
    stages = stages or recipe.stages
    for stage in stages:
        training = recipe.training[stage]
        trained = import_module(f"vlgen.pretrain.{stage}").parameters(recipe)
        yield f"{stage}: {training.steps} steps of {training.batch}, lr {training.lr:g}, {trained:,} parameters"
        counts = {part: [index for index, _ in rows(recipe, stage, part)] for part in ("train", "test")}
        total = sum(source.weights.get(stage, 0) for source in recipe.sources)
        for index, source in enumerate(recipe.sources):
            if source.weights.get(stage):
                train, test = (counts[part].count(index) for part in ("train", "test"))
                share, name = source.weights[stage] / total, source.only or source.folder.name
                passes = training.steps * training.batch * share / max(1, train)
                yield (
                    f"  {name:24s} {source.modality:4s} train {train:5d}  held out {test:4d}  "
                    f"share {share:4.0%}  passes {passes:.1f}"
                )

    for folder in dict.fromkeys(s.folder for s in recipe.sources if set(s.weights) & set(stages)):
        if refused := Dataset(folder).refused:
            yield f"{folder}: {len(refused)} rows refused, the first at line {refused[0][0]}: {refused[0][1]}"


def parts(recipe: Recipe, folder: str | Path) -> Iterator[Path]:
    """Lay out what the model has seen and what it has not: folder/MODALITY/train and /test, as `vlgen evaluate` reads.

    folder/all holds every modality together: there an evaluation also asks whether the modality was obeyed. Links to
    the images, and a metadata.csv with source, patient (or cluster of twins) and report. Beside them a table
    folder/SOURCE.csv for each folder of images, with a column `split`: `vlgen train --table` learns from the same part.
    Raises ValueError where a folder to be written exists already.
    """
    tables: dict[str, list[list[str]]] = {}
    for part in ("train", "test"):
        members: dict[str, list[tuple[Path, list[str]]]] = {}
        for index, row in rows(recipe, "diffusion", part):
            source = recipe.sources[index]
            inside = row.file.relative_to(source.folder).as_posix()
            name = f"{source.folder.name}-{inside.replace('/', '-')}"
            line = [name, row.source, row.patient, row.text]
            tables.setdefault(source.folder.name, []).append([inside, *line[1:], part])
            for group in (source.modality, ALL):
                members.setdefault(group, []).append((row.file.resolve(), line))
        for kind, found in members.items():
            place = Path(folder) / kind / part
            if place.exists():
                raise ValueError(f"{place} exists already: give an empty folder, or remove it")
            place.mkdir(parents=True)
            _table(place / "metadata.csv", ["file_name", "source", "patient", "text"], [line for _, line in found])
            for path, line in found:
                (place / line[0]).symlink_to(path)
            yield place
    for name, lines in tables.items():
        yield _table(Path(folder) / f"{name}.csv", ["file_name", "source", "patient", "text", "split"], lines)


def _table(path: Path, header: list[str], lines: list[list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def measure(recipe: Recipe, model: str, folder: str | Path) -> dict[str, Any]:
    """Codec PSNR and SSIM per modality, and the CLIP's retrieval and present/absent accuracy, on the held-out rows.

    Where torchxrayvision is installed, also how well the text tower tells present from absent in real report sentences.
    """
    from vlgen.backbone import load
    from vlgen.pretrain import clip, codec, sentences

    backbone, cache = load(model), Path(folder) / "cache"
    pictures, pairs = (gather(recipe, stage, "test", cache) for stage in ("codec", "clip"))
    side = int(recipe.options["clip"]["model"]["vision_cfg"]["image_size"])
    reader = clip.reader(backbone.text, backbone.device)
    reports = sentences.archive()
    return {
        "codec": codec.quality(backbone.codec, pictures, recipe, backbone.device),
        "clip": clip.quality(backbone.text.tower, reader, pairs, recipe, side, backbone.device),
        "sentences": sentences.separation(lambda t: backbone.embed(t).pooled, reports) if reports else None,
    }
