"""The forecast: what a study will do, and how long that will take, before it does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from vlgen.benchmark.scarcity.study import Study
from vlgen.features import extractor
from vlgen.generate import illustrate
from vlgen.train.losses import LEVELS, MOST
from vlgen.train.outline import estimate
from vlgen.train.pictures import FEATURES, TOGETHER
from vlgen.train.preview import SEEDS, TEXTS


def forecast(study: Study) -> Iterator[str]:
    """What a study will do, and about how long what is not finished will take on this machine, line by line."""
    whole, backbone, sizes = study.whole, study.backbone, study.sizes
    given = whole.settings
    assert given.steps
    yield (
        f"scarcity study in {study.out} | model {backbone.name} | modality {study.kind.name} | training images "
        f"{', '.join(map(str, sizes))} of {len(whole.train)}, of {len(whole.patients)} patients or clusters | held out "
        f"{len(whole.test)}, the same every time | seed {given.seed}"
    )
    todo = [(size, kind) for size in sizes for kind in study.settings if not study.finished(size, kind)]
    if not todo:
        yield f"all {len(sizes) * len(study.settings)} trainings are finished: their figures follow"
        return
    steps: dict[str, float] = {}
    for kind, settings in study.settings.items():
        own = settings.resolved(name=kind, images=sizes[-1])
        found = estimate(backbone, replace(whole, settings=own))
        steps[kind] = found.seconds
        rank = "" if own.full else f", rank {own.rank}"
        kept = 2 * 16 * found.trained / 2**20  # two checkpoints: weights, average, two moments
        yield (
            f"{kind}: {given.steps} steps of {given.batch} images, lr {own.lr:g}{rank} | {found.trained:,} parameters "
            f"| {found.seconds:.3f} s a step | up to {kept:.0f} MiB of checkpoints each"
        )
    began, seen = time.monotonic(), extractor(FEATURES)
    for _, images in illustrate(backbone, ["An image."] * TOGETHER, seeds=range(TOGETHER)):
        seen.see(images.shown())
    picture = (time.monotonic() - began) / TOGETHER
    training = sum(steps[kind] * given.steps for _, kind in todo)
    made_ = (len(todo) * (study.count + TEXTS * len(SEEDS)) + study.count) * picture
    # Before and after, at four levels each; without a gradient a third of a step's work.
    losses = sum(
        2 * LEVELS * (min(MOST, len(whole.test)) + min(MOST, size)) * steps[kind] / (3 * given.batch)
        for size, kind in todo
    )
    yield (
        f"time: about {(training + made_ + losses) / 60:.1f} min for {len(todo)} of {len(sizes) * len(steps)} "
        f"trainings: {training / 60:.1f} of steps, {losses / 60:.1f} of losses, {made_ / 60:.1f} of images "
        f"({study.count} each, {picture:.2f} s an image); besides, images are read and encoded"
    )
