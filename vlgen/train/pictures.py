"""Pictures: what images made without and with an adapter are worth beside real ones: realism, text, privacy."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.adapter.differences import is_new
from vlgen.backbone import Backbone
from vlgen.dataset import load
from vlgen.evaluate.collection import Collection
from vlgen.evaluate.facts import known_findings, known_traits
from vlgen.evaluate.judge import judged
from vlgen.features import extractor
from vlgen.generate import illustrate
from vlgen.metrics.distribution import frechet, kernel_distance
from vlgen.metrics.privacy import copies, copy_threshold, nn_ratio
from vlgen.report import Report
from vlgen.tensors import counter
from vlgen.train.job import Job
from vlgen.train.loop import Step
from vlgen.train.stash import key, restored, stashed

STAGE = "audit"
FEATURES = "imagenet"  # of a network that has no text tower, and so judges what is asked for by real images alone
MOST = 500  # real images of either side that are looked at
LEAST = 10  # of each set: below it no distance means anything
TOGETHER = 8


@dataclass(frozen=True, eq=False)
class Real:
    """Real images as an extractor sees them, (N, d): held-out ones and training ones, with what is known of each."""

    held_out: Tensor
    train: Tensor
    known: Collection


def real(todo: Job, size: int, name: str, folder: Path) -> Generator[Step, None, Real]:
    """The features of at most 500 held-out and 500 training images, yielding progress; kept in `folder`."""
    seen = extractor(name)
    parts = []
    sides = [_some(rows, todo.settings.seed) for rows in (todo.test, todo.train)]
    for rows in sides:
        words = [seen.fingerprint, size, todo.kind.name, todo.kind.window, todo.settings.fit]
        path = folder / f"features-{key([words, [todo.digests[k] for k in rows]])}.safetensors"
        if not (found := restored(path)):
            features = [torch.empty(0, seen.dimension)]
            for start in range(0, len(rows), TOGETHER):
                yield Step(STAGE, start, len(rows), {}, 0.0)
                chosen = [todo.rows[k] for k in rows[start : start + TOGETHER]]
                x = torch.stack([load(row, todo.kind, size, fit=todo.settings.fit) for row in chosen])
                features.append(seen.see((x + 1) / 2))
            found = {"features": torch.cat(features)}, {}
            stashed(path, found[0])
        parts.append(found[0]["features"])
    looked_at = [todo.rows[k] for side in sides for k in side]
    groups = [row.patient or str(row.file) for row in looked_at]
    known = collection([row.text for row in looked_at], [dict(row.facts) for row in looked_at], groups, todo.kind.name)
    return Real(parts[0], parts[1], _seen(known, name, torch.cat(parts)))


def made(backbone: Backbone, texts: Sequence[str], name: str, folder: Path) -> Generator[Step, None, Tensor]:
    """(N, d) features of one image for each text, seeds 0 to N - 1, yielding progress; kept in `folder`.

    By the backbone as it is, with the adapters that it carries, at its default settings.
    """
    seen = extractor(name)
    words = [backbone.fingerprint, backbone.adapter_sha256, seen.fingerprint, list(texts)]
    path = folder / f"made-{key(words)}.safetensors"
    if found := restored(path):
        return found[0]["features"]
    features = torch.empty(len(texts), seen.dimension)
    for place, images in illustrate(backbone, texts, seeds=range(len(texts)), batch=TOGETHER):
        yield Step(STAGE, place, len(texts), {}, 0.0)
        features[place] = seen.see(images.shown())[0]
    stashed(path, {"features": features})
    return features


def pictures(seed: int, before: Tensor | None, after: Tensor, texts: Sequence[str], beside: Real) -> dict[str, Any]:
    """Figures of images without and with the adapter, each with its n and what to read it beside.

    before, after  (N, d) features of the images of N texts; before is None where the base does not make the modality

    Frechet and kernel distance to as many held-out images, beside those of as many training images, which are of
    other patients; the nearest-neighbor ratio, which is 1 where images lie as near to held-out as to training images;
    and what a linear judge, which learned on the real images alone, finds of what the texts ask for.
    """
    judge_of = extractor(FEATURES)
    found: dict[str, Any] = {}
    n = min(len(after), len(beside.held_out), len(beside.train))
    sides = {"after": after} if before is None else {"before": before, "after": after}
    if n >= LEAST:
        held_out, train = beside.held_out[:n], beside.train[:n]
        for name, distance in (
            ("Frechet distance", frechet),
            ("kernel distance", lambda a, b: kernel_distance(a, b, seed=seed)[0]),
        ):
            figures = {side: round(distance(held_out, x[:n]), 4) for side, x in sides.items()}
            against = {"beside": round(distance(held_out, train), 4), "which is": "training images of other patients"}
            found[f"{name} to held-out images"] = figures | {"n": n} | against
        ratios = {side: nn_ratio(x, beside.train, beside.held_out, seed=seed) for side, x in sides.items()}
        for what, level in (("median", 0.5), ("1st percentile", 0.01)):
            found[f"nearest-neighbor ratio, {what}"] = {
                side: round(float(ratio.clamp(max=1e3).quantile(level)), 4) for side, ratio in ratios.items()
            } | {"n": len(after), "beside": 1.0, "which is": "no nearer to training than to held-out images"}
        found |= _copied(sides, beside)
    judge: dict[str, Any] = {}
    kind = beside.known.modalities[0]
    for side, x in sides.items():
        asked = _seen(collection(texts, [{}] * len(texts), [str(k) for k in range(len(texts))], kind),
                      FEATURES, x)  # fmt: skip
        rows, _ = judged(beside.known, asked, [judge_of], seed=seed, progress=lambda what, done, total: None)
        for row in rows:
            figures = judge.setdefault(f"{row.group}, {row.metric}", {})
            figures |= {side: round(row.value, 4), "n": row.n}
            if row.reference is not None:
                figures |= {"beside": round(row.reference, 4), "which is": row.against}
    return found | judge


def asked_for(todo: Job, count: int) -> list[str]:
    """The texts of so many images: the held-out reports' own words in turn, or those that training saw."""
    rows = _some(todo.test or todo.train, todo.settings.seed)
    return [todo.captions.texts[rows[k % len(rows)]][0] for k in range(count)]


def can_be_asked(backbone: Backbone, todo: Job) -> bool:
    """Whether the base makes the modality at all, so that there is a before."""
    return not is_new(todo.kind.name, backbone)


def _copied(sides: dict[str, Tensor], beside: Real) -> dict[str, Any]:
    """Images nearer to a training image than 1 % of the held-out images are; nothing where there are too few."""
    try:
        threshold = copy_threshold(beside.train, beside.held_out)
    except ValueError:
        return {}
    counts = {side: int(copies(x, beside.train, threshold).sum()) for side, x in sides.items()}
    n = len(sides["after"])
    return {"copies": counts | {"n": n, "beside": 0.01 * n, "which is": "expected of unseen real images"}}


def collection(texts: Sequence[str], records: Sequence[dict[str, str]], groups: Sequence[str], kind: str) -> Collection:
    """What reports state, in the shape that a judge reads; of one modality, and without files."""
    reports = [Report.parse(text) for text in texts]
    return Collection(
        Path(),
        tuple(Path(str(k)) for k in range(len(texts))),
        reports=tuple(texts),
        groups=tuple(groups),
        modalities=(kind,) * len(texts),
        findings=tuple(known_findings(report) for report in reports),
        traits=tuple(known_traits(report, record) for report, record in zip(reports, records, strict=True)),
    )


def _seen(one: Collection, name: str, features: Tensor) -> Collection:
    return replace(one, features={name: features})


def _some(rows: Sequence[int], seed: int) -> list[int]:
    """At most 500 of the rows in an order of chance, always the same."""
    return sorted(rows, key=lambda row: counter("audit", seed, row))[:MOST]
