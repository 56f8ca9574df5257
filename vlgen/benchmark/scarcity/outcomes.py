"""The outcomes: every training of a study, and what its images and its memory are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vlgen.adapter import read, use
from vlgen.benchmark.scarcity.study import ADAPTER, Study
from vlgen.metrics.distribution import bootstrap, frechet
from vlgen.metrics.privacy import copies, copy_threshold, nn_ratio
from vlgen.train.loop import Step
from vlgen.train.pictures import FEATURES, Real, asked_for, can_be_asked, made, pictures, real
from vlgen.train.stash import private
from vlgen.train.tune import train, workshop

BASE = "base"
DRAWS = 300  # of the bootstrap


@dataclass(frozen=True)
class Outcome:
    """What the base, the adapter or the full fine-tune of so many training images is worth.

    figures  by name: value and n, and where there are any low and high (95 %), and what it is read beside
    """

    size: int
    kind: str
    figures: Mapping[str, Mapping[str, float]]


def scarcity(study: Study) -> Iterator[Step | Outcome]:
    """Train an adapter and a full fine-tune on each number of images, yielding every step, and what each is worth.

    For each number: the base's Outcome, the adapter's and the full fine-tune's. All are compared with the same
    held-out images at the same n, beside the distance of as many real images of other patients. A training lies in
    OUT/KIND-SIZE as `vlgen.train` leaves it, with its audit in the contract; repeated, what is finished is not done
    again, and what is not goes on.
    """
    backbone, whole, cache = study.backbone, study.whole, study.cache
    seed = whole.settings.seed
    texts = asked_for(whole, study.count)
    beside = yield from real(whole, backbone.size, FEATURES, cache)
    bare: Tensor | None = None
    worth: dict[str, dict[str, float]] = {}
    if can_be_asked(backbone, whole):
        bare = yield from made(backbone, texts, FEATURES, cache)
        worth = _worth(study, bare, texts, beside)
    for size in study.sizes:
        near = yield from real(study.job(size, ADAPTER), backbone.size, FEATURES, cache)
        found = list[Outcome]()
        for kind, settings in study.settings.items():
            folder = study.folder(size, kind)
            _share(cache, folder)
            try:
                for step in train(backbone, study.part(size), out=folder, **vars(settings)):
                    yield replace(step, stage=f"{kind} of {size}: {step.stage}")
                x = yield from made(backbone, texts, FEATURES, cache)  # as the audit has left them
            finally:
                use(backbone, [])
            audit = read(folder).audit
            if not found:
                found.append(Outcome(size, BASE, _of_audit(audit, "before") | worth | _near(bare, near, seed)))
            after = _of_audit(audit, "after") | _worth(study, x, texts, beside) | _near(x, near, seed)
            found.append(Outcome(size, kind, after))
        yield from found


def _worth(study: Study, x: Tensor, texts: Sequence[str], beside: Real) -> dict[str, dict[str, float]]:
    """Distances to the held-out images with an interval, and a judge who learned on all real images."""
    audit = pictures(study.whole.settings.seed, None, x, texts, beside)
    found = {}
    for name, figures in audit.items():
        if "after" in figures and not name.startswith(("nearest", "copies")):
            short = name.removesuffix(" to held-out images")
            found[short] = {"value": figures["after"], "n": figures["n"]}
            found[short] |= {"beside": figures["beside"]} if "beside" in figures else {}
    n = int(found["Frechet distance"]["n"])
    low, high = bootstrap(frechet, beside.held_out[:n], x[:n], draws=DRAWS, seed=study.whole.settings.seed, center=True)
    found["Frechet distance"] |= {"low": round(low, 4), "high": round(high, 4)}
    return found


def _of_audit(audit: Mapping[str, Any], side: str) -> dict[str, dict[str, float]]:
    """What the audit at the end of a training says of its losses, before or after."""
    found = {}
    for name, short in (
        ("held-out loss", "held-out loss"),
        ("membership inference, AUC", "membership AUC"),
    ):
        figures = audit.get(name, {})
        if side in figures:
            kept = ("low", "high", "change", "change_se", "beside", "n") if side == "after" else ("beside", "n")
            found[short] = {"value": figures[side]} | {key: figures[key] for key in kept if key in figures}
    return found


def _near(x: Tensor | None, real: Real, seed: int) -> dict[str, dict[str, float]]:
    """How near images lie to training images, beside held-out ones: the median ratio, and how many are copies.

    A copy is nearer to a training image than 1 % of the held-out images are; than the one nearest, if there are few.
    """
    if x is None:
        return {}
    ratio = nn_ratio(x, real.train, real.held_out, seed=seed).clamp(max=1e3).quantile(0.5)
    found = {"nearest-neighbor ratio": {"value": round(float(ratio), 4), "n": len(x), "beside": 1.0}}
    rate = max(0.01, 1 / (len(real.held_out) + 1))
    try:
        threshold = copy_threshold(real.train, real.held_out, rate)
    except ValueError:  # a held-out image is a training image: no distance tells a copy
        return found
    copied = int(copies(x, real.train, threshold).sum())
    return found | {"copies": {"value": copied, "n": len(x), "beside": round(rate * len(x), 2)}}


def _share(cache: Path, folder: Path) -> None:
    """Let a training keep what it computes of images where the others find it; alone, where there are no links."""
    with suppress(OSError):
        (private(workshop(folder)) / "cache").symlink_to(Path("..", cache.name), target_is_directory=True)
