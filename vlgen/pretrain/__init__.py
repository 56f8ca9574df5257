"""Pretraining: folders of images and reports become a model of one's own, in three stages that resume when repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vlgen.dataset import Dataset
from vlgen.pretrain.examples import gather, rows
from vlgen.pretrain.loop import Step, device, run
from vlgen.pretrain.recipe import STAGES, Recipe

__all__ = ["STAGES", "Recipe", "Step", "measure", "outline", "pretrain"]


def pretrain(recipe: Recipe, folder: str | Path, *, stages: Sequence[str] = STAGES) -> Iterator[Step]:
    """Train the stages of a recipe one after the other, yielding every step; repeat the call to resume.

    The finished model is folder/parts: a folder that `vlgen.load` and `--model` take. Each stage keeps its log.csv,
    sheets and checkpoints in folder/STAGE, and everything that was computed once in folder/cache.
    """
    folder = Path(folder)
    for stage in stages:
        train, test = (gather(recipe, stage, part, folder / "cache") for part in ("train", "test"))
        task = import_module(f"vlgen.pretrain.{stage}").task(recipe, train, test, folder / "parts", device())
        yield from run(task, recipe.training[stage], folder / stage, stage=stage, seed=recipe.seed)


def outline(recipe: Recipe, stages: Sequence[str] = STAGES) -> Iterator[str]:
    """What a recipe would do, line by line, without reading an image: parameters, steps, rows, passes, refusals."""
    for stage in stages:
        training = recipe.training[stage]
        trained = import_module(f"vlgen.pretrain.{stage}").parameters(recipe)
        yield f"{stage}: {training.steps} steps of {training.batch}, lr {training.lr:g}, {trained:,} parameters"
        counts = {part: [index for index, _ in rows(recipe, stage, part)] for part in ("train", "test")}
        total = sum(source.weight for source in recipe.sources if stage in source.stages)
        for index, source in enumerate(recipe.sources):
            if stage in source.stages:
                train, test = (counts[part].count(index) for part in ("train", "test"))
                share, name = source.weight / total, source.only or source.folder.name
                passes = training.steps * training.batch * share / max(1, train)
                yield (
                    f"  {name:24s} {source.modality:4s} train {train:5d}  held out {test:4d}  "
                    f"share {share:4.0%}  passes {passes:.1f}"
                )

    for folder in dict.fromkeys(s.folder for s in recipe.sources if set(s.stages) & set(stages)):
        if refused := Dataset(folder).refused:
            yield f"{folder}: {len(refused)} rows refused, the first at line {refused[0][0]}: {refused[0][1]}"


def measure(recipe: Recipe, model: str, folder: str | Path) -> dict[str, Any]:
    """Codec PSNR and SSIM per modality, and the CLIP's retrieval and present/absent accuracy, on the held-out rows."""
    from vlgen.backbone import load
    from vlgen.pretrain import clip, codec

    backbone, cache = load(model), Path(folder) / "cache"
    pictures, pairs = (gather(recipe, stage, "test", cache) for stage in ("codec", "clip"))
    side = int(recipe.options["clip"]["model"]["vision_cfg"]["image_size"])
    reader = clip.reader(backbone.text, backbone.device)
    return {
        "codec": codec.quality(backbone.codec, pictures, recipe, backbone.device),
        "clip": clip.quality(backbone.text.tower, reader, pairs, recipe, side, backbone.device),
    }
