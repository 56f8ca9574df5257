"""Fidelity: how real the images look, each figure beside the same figure between two halves of the real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlgen.evaluate.collection import Collection, Progress
from vlgen.evaluate.scores import Row, Section
from vlgen.metrics.distribution import (
    bootstrap,
    clip_mmd,
    frechet,
    kernel_distance,
    mmd,
    precision_recall_density_coverage,
)
from vlgen.metrics.image import ms_ssim
from vlgen.sheet import sheet
from vlgen.tensors import counter, generator

if TYPE_CHECKING:
    from PIL import Image

LEAST, LEAST_GROUP = 10, 25  # images of each of three sets: below it no distance means anything
SPLITS = 5
HALVES = "two real halves"


def fidelity(
    real: Collection,
    synthetic: Collection,
    *,
    spoken: Sequence[str] = (),
    draws: int = 100,
    most: int = 1000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Section:
    """Frechet distance, kernel distance, CLIP-MMD, precision, recall, density, coverage, and diversity within a prompt.

    Every figure compares n synthetic images with n real ones, and its reference compares those n real ones with n
    others of other patients; n is at most half of the real images. Both are means over five such splits. Intervals are
    bootstrap intervals on the first split, moved onto the mean.

    spoken  the extractors with a text tower, whose features CLIP-MMD is defined on
    draws   of the bootstrap; a third as many where n is above 500
    most    images of each set that are compared, drawn by seed

    Raises ValueError where n would be below 10, saying how many images are needed.
    """
    n = min(len(halved(real, seed)[0]), len(synthetic))
    if n < LEAST:
        raise ValueError(
            f"{len(real)} real and {len(synthetic)} synthetic images: fidelity needs at least {2 * LEAST} real images "
            f"of at least two patients and {LEAST} synthetic ones"
        )
    groups, small = _groups(real, synthetic)
    rows, todo = list[Row](), [(name, group) for name in synthetic.features for group in groups]
    for done, (name, group) in enumerate(todo):
        progress(f"distances on {name} features", done, len(todo))
        ours, theirs = groups[group]
        part = _distances(
            real.subset(ours), synthetic.subset(theirs), group, name, name in spoken, draws=draws, most=most, seed=seed
        )
        rows += part
    progress("distances", len(todo), len(todo))
    found, said = _diversity(real, synthetic, seed, progress)
    notes = [
        f"Figures compare n images of each set, at most {most}, and {HALVES} likewise, of other patients: means over "
        f"{SPLITS} splits. From precision to coverage the interval is the range over the splits.",
        *said,
    ]
    if small:
        notes.append(
            f"Too few images for a row of their own (under {2 * LEAST_GROUP} real or {LEAST_GROUP} synthetic): "
            f"{', '.join(small)}."
        )
    question = "How real do the images look?"
    return Section("fidelity", question, (*rows, *found), tuple(notes), pictures=_sheets(real, synthetic, seed))


def halved(one: Collection, seed: int) -> tuple[Tensor, Tensor]:
    """The rows of a collection in two halves of equal size, all images of a patient in one of them."""
    names = sorted(set(one.groups), key=lambda name: counter("half", seed, name))
    place = {name: k for k, name in enumerate(names)}
    order = sorted(range(len(one)), key=lambda row: place[one.groups[row]])
    middle = len(order) // 2
    while 0 < middle < len(order) and one.groups[order[middle]] == one.groups[order[middle - 1]]:
        middle -= 1
    first, second = (torch.tensor(part, dtype=torch.long) for part in (order[:middle], order[middle:]))
    n = min(len(first), len(second))
    return _some(first, n, "first", seed), _some(second, n, "second", seed)


def _some(rows: Tensor, n: int, *words: object) -> Tensor:
    """n of the rows, by seed, in their order."""
    if len(rows) <= n:
        return rows.sort().values
    return rows[torch.randperm(len(rows), generator=generator("some", *words))[:n]].sort().values


def _groups(real: Collection, synthetic: Collection) -> tuple[dict[str, tuple[list[int], list[int]]], list[str]]:
    """Group -> its rows in both sets: all, each modality of several, each finding present; and the small ones."""
    wanted: dict[str, tuple[list[int], list[int]]] = {}
    kinds = sorted({*real.modalities, *synthetic.modalities} - {""})
    for kind in kinds if len(kinds) > 1 else ():
        wanted[kind] = _places(real.modalities, kind), _places(synthetic.modalities, kind)
    for name in sorted({name for stated in synthetic.findings for name, present in stated.items() if present}):
        known = [[stated.get(name, False) for stated in one.findings] for one in (real, synthetic)]
        wanted[name] = _places(known[0], True), _places(known[1], True)
    small = [name for name, (a, b) in wanted.items() if len(a) < 2 * LEAST_GROUP or len(b) < LEAST_GROUP]
    kept = {name: rows for name, rows in wanted.items() if name not in small}
    return {"all": (list(range(len(real))), list(range(len(synthetic)))), **kept}, small


def _places(values: Sequence[object], wanted: object) -> list[int]:
    return [row for row, value in enumerate(values) if value == wanted]


def _distances(
    real: Collection,
    synthetic: Collection,
    group: str,
    name: str,
    spoken: bool,
    *,
    draws: int,
    most: int,
    seed: int,
) -> list[Row]:
    """The rows of one group on one extractor's features."""
    first = halved(real, seed)[0]
    n = min(len(first), len(synthetic), most)
    if n < LEAST:
        return []
    triples = [_split(real, synthetic, name, n, seed, k) for k in range(SPLITS)]
    measures: dict[str, Callable[[Tensor, Tensor], float]] = {
        "Frechet distance": frechet,
        "kernel distance": lambda a, b: kernel_distance(a, b, subsets=20, seed=seed)[0],
    }
    if spoken:
        measures["CLIP-MMD"] = clip_mmd
    rows = []
    for metric, measure in measures.items():
        value, reference = fmean(measure(a, s) for a, _, s in triples), fmean(measure(a, b) for a, b, _ in triples)
        # the kernel distance's interval is that of the same estimator over all rows at once
        whole = mmd if metric == "kernel distance" else measure
        low, high = bootstrap(
            whole,
            triples[0][0],
            triples[0][2],
            draws=max(40, draws if n <= 500 else draws // 3),
            seed=seed,
            center=True,
        )
        shift = value - whole(triples[0][0], triples[0][2])
        interval = (low + shift, high + shift)
        rows.append(Row(metric, value, n, group, name, interval, reference, HALVES, "lower"))
    k = min(5, n - 1)
    shared = [precision_recall_density_coverage(a, s, k) for a, _, s in triples]
    beside = [precision_recall_density_coverage(a, b, k) for a, b, _ in triples]
    for metric in ("precision", "recall", "density", "coverage"):
        values = [float(getattr(one, metric)) for one in shared]
        reference = fmean(getattr(one, metric) for one in beside)
        spread = (min(values), max(values))  # over the splits: repeated rows would break a bootstrap of neighbors
        rows.append(Row(metric, fmean(values), n, group, name, spread, reference, HALVES, "reference"))
    return rows


def _split(
    real: Collection, synthetic: Collection, name: str, n: int, seed: int, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of n real images, n others of other patients, and n synthetic ones."""
    first, second = halved(real, counter(seed, "split", k))
    first, second = _some(first, n, "a", seed, k), _some(second, n, "b", seed, k)
    own = _some(torch.arange(len(synthetic)), n, "s", seed, k)
    return real.features[name][first], real.features[name][second], synthetic.features[name][own]


def _diversity(
    real: Collection, synthetic: Collection, seed: int, progress: Progress, pairs: int = 100, size: int = 192
) -> tuple[list[Row], list[str]]:
    """MS-SSIM between images of one prompt: high is alike, and the real images with one report say what is usual."""
    found, values = [], {}
    for one, title in ((synthetic, "synthetic"), (real, "real")):
        chosen = _pairs(one, pairs, seed)
        if len(chosen) < 10:
            return [], [
                f"Diversity within a prompt needs 10 pairs of {title} images with one report; {len(chosen)} exist."
            ]
        scores = []
        for done, (i, j) in enumerate(chosen):
            progress(f"diversity of {title} images", done, len(chosen))
            scores.append(ms_ssim(one.picture(i, size)[None], one.picture(j, size)[None], peak=1.0))
        values[title] = torch.cat(scores)
    interval = bootstrap(lambda x: float(x.mean()), values["synthetic"], draws=1000, seed=seed)
    n, reference = len(values["synthetic"]), float(values["real"].mean())
    found.append(
        Row("MS-SSIM within a prompt", float(values["synthetic"].mean()), n, "all", "", interval, reference,
            "real images with one report", "reference")
    )  # fmt: skip
    return found, [f"MS-SSIM within a prompt: n counts pairs of images of one report, at {size} pixels a side."]


def _sheets(real: Collection, synthetic: Collection, seed: int, size: int = 112) -> tuple[tuple[str, Image.Image], ...]:
    """A contact sheet of each set: sixteen images drawn by seed, none chosen."""
    found = []
    for one, title in ((real, "real"), (synthetic, "synthetic")):
        rows = _some(torch.arange(len(one)), 16, "sheet", seed).tolist()
        shown = [one.picture(row, size) for row in rows]
        found.append((f"{len(shown)} {title} images, drawn by seed, none chosen", [shown[k : k + 8] for k in (0, 8)]))
    return tuple((caption, sheet([row for row in rows if row])) for caption, rows in found)


def _pairs(one: Collection, most: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of images with the same report and of different patients, spread over the reports, by seed."""
    members: dict[str, list[int]] = {}
    for row, report in enumerate(one.reports):
        if report:
            members.setdefault(report, []).append(row)
    chosen = list[tuple[int, int]]()
    for rows in members.values():
        rows = sorted(rows, key=lambda row: counter("pair", seed, one.groups[row], row))
        chosen += [(i, j) for i, j in zip(rows[::2], rows[1::2], strict=False) if one.groups[i] != one.groups[j]]
    return sorted(chosen, key=lambda pair: counter("pair", seed, *pair))[:most]
