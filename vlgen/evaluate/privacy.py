"""Privacy: whether synthetic images lie closer to the training images than unseen real ones of the same kind do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlgen.checkpoint import sha256
from vlgen.evaluate.collection import Collection, Progress
from vlgen.evaluate.fidelity import halved
from vlgen.evaluate.planted import RATE, SHOWN, planted
from vlgen.evaluate.scores import Row, Section
from vlgen.kernels import kernel
from vlgen.metrics.distribution import bootstrap
from vlgen.metrics.privacy import copies, copy_threshold, membership, nearest, nn_ratio
from vlgen.metrics.share import wilson
from vlgen.report import Report
from vlgen.sheet import sheet
from vlgen.tensors import counter

if TYPE_CHECKING:
    from PIL import Image

    from vlgen.backbone import Backbone
    from vlgen.features import Extractor

LEVELS = (0.25, 0.5, 1.0, 2.0)  # sigmas of the loss: between almost clean and almost noise
DRAWS = 2  # of noise at each
CUTS = 5  # of the larger set to the size of the smaller, and of the held-out images in halves; ratios are pooled
MOST = 500  # images of each set whose loss is taken
LEAST = 100  # held-out images, for a true-positive rate at 1 % of false alarms
CAP = 1e3  # ratios above it count as this much, so that an image at distance 0 of a held-out one has a finite ratio


def privacy(
    synthetic: Collection,
    train: Collection,
    held_out: Collection,
    extractors: Sequence[Extractor] = (),
    *,
    seed: int = 0,
    backbone: Backbone | None = None,
    progress: Progress | None = None,
) -> Section:
    """Nearest-neighbor ratio, copies, planted copies, and membership inference by the loss.

    held_out    real images of the same source; those that share a patient or their content with train are left out
    extractors  those that planted copies go through, of the collections' features; none: no copies are planted
    backbone    the generator; None: no membership inference

    The ratio's reference is that of one half of the held-out images with the other in the place of the held-out
    ones: it is 1 where both sources are one. Copies are counted below the distance that 1 % of held-out images reach
    (vlgen.metrics.privacy.copy_threshold). Raises ValueError where nothing of held_out remains, or where the three
    collections share no extractor's features.
    """
    tell = progress or (lambda what, done, total: None)
    unseen = without(held_out, train)
    names = [name for name in synthetic.features if name in train.features and name in unseen.features]
    if not names:
        raise ValueError("the synthetic, training and held-out images share no features: gather all with one extractor")
    rows, notes = list[Row](), [_told_apart(held_out, unseen, train)]
    pictures: list[tuple[str, Image.Image]] = []
    for done, name in enumerate(names):
        tell("nearest neighbors", done, len(names))
        for found, said in (_ratios(synthetic, train, unseen, name, seed), _copies(synthetic, train, unseen, name)):
            rows += found
            notes += said
        pictures.append(_worst(synthetic, train, unseen, name))
    tell("nearest neighbors", len(names), len(names))
    if extractors:
        power = planted(synthetic, train, unseen, extractors, seed=seed, progress=tell)
        rows, notes, pictures = [*rows, *power.rows], [*notes, *power.notes], [*pictures, *power.pictures]
    if backbone is not None:
        found, said = attacked(backbone, train, unseen, seed=seed, progress=tell)
        rows, notes = rows + found, notes + said
    question = "Does it give away its training images?"
    return Section("privacy", question, tuple(rows), tuple(notes), pictures=tuple(pictures))


def without(held_out: Collection, train: Collection) -> Collection:
    """The held-out images of which neither the patient nor the file's content is among the training images.

    A file name is no patient: two folders may both begin with 0001.png. Raises ValueError where none remains.
    """
    patients, contents = set(train.groups), set(_digests(train))
    rows = [
        row
        for row, (group, known, digest) in enumerate(
            zip(held_out.groups, _known(held_out), _digests(held_out), strict=True)
        )
        if digest not in contents and not (known and group in patients)
    ]
    if not rows:
        raise ValueError(
            f"all {len(held_out)} real images are training images or of their patients: privacy needs real images of "
            "patients that were not trained on"
        )
    return held_out.subset(rows)


def denoising_losses(backbone: Backbone, x: Tensor, texts: Sequence[str], *, seed: int = 0, batch: int = 16) -> Tensor:
    """The denoising loss of each image, the mean over LEVELS and DRAWS of noise that is the same for every image.

    x       (N, 1, S, S) in [0, 1], S the backbone's size
    texts   N prompts, "" for the unconditional loss
    result  (N,) float64

    The mean over a latent of (1 + sigma^2) / sigma^2 |D(z + sigma n) - z|^2, by which no level outweighs the others
    (Karras et al. 2022, arXiv:2206.00364, eq. 2 and table 1). Noise is of the kernel that the backbone learned under;
    levels outside its trained range move to the end of it.
    """
    low, high = float(backbone.sigmas[0]), float(backbone.sigmas[-1])
    noises = kernel(backbone.kernel)
    found = []
    with torch.inference_mode():
        for start in range(0, len(x), batch):
            z = backbone.encode(x[start : start + batch] * 2 - 1)
            cond = backbone.embed(texts[start : start + batch])
            total = torch.zeros(len(z), dtype=torch.float64)
            for sigma in (min(max(level, low), high) for level in LEVELS):
                for draw in range(DRAWS):
                    noise = noises.noise(backbone.shape, sigma, [counter("membership", seed, sigma, draw)]).to(z)
                    clean = backbone.denoise(z + noise, torch.tensor(sigma), cond)
                    error = (clean - z).double().square().flatten(1).mean(1).cpu()
                    total += error * (1 + sigma**2) / sigma**2
            found.append(total / (len(LEVELS) * DRAWS))
    return torch.cat(found)


def attacked(
    backbone: Backbone, train: Collection, unseen: Collection, *, seed: int, progress: Progress
) -> tuple[list[Row], list[str]]:
    """Membership inference by a threshold on the loss: rows, and the sentences that say how it was made."""
    sets = [_some(one, MOST, seed) for one in (train, unseen)]
    if len(sets[0]) < 2 or len(sets[1]) < LEAST:
        return [], [
            f"Membership was not inferred: it needs 2 training and {LEAST} held-out images for {RATE:.0%} of false "
            f"alarms, and there are {len(sets[0])} and {len(sets[1])}."
        ]
    told = all(all(one.reports) for one in sets)
    losses, done, total = list[Tensor](), 0, sum(map(len, sets))
    for one in sets:
        parts = []
        for start in range(0, len(one), 16):
            progress("denoising loss", done, total)
            block = range(start, min(start + 16, len(one)))
            x = torch.stack([one.picture(row, backbone.size) for row in block])
            texts = [Report.parse(one.reports[row]).prompt() if told else "" for row in block]
            parts.append(denoising_losses(backbone, x, texts, seed=seed))
            done += len(block)
        losses.append(torch.cat(parts))
    progress("denoising loss", total, total)
    found = membership(losses[0], losses[1], RATE, seed=seed)
    n = min(map(len, sets))
    metric = "membership inference by the loss"
    rows = [
        Row(f"{metric}, AUC", found.auc, n, interval=found.auc_interval, reference=0.5, against="chance",
            better="reference"),
        Row(f"{metric}, TPR at 1 % FPR", found.tpr, n, interval=found.tpr_interval, reference=RATE, against="chance",
            better="reference"),
    ]  # fmt: skip
    text = "each with its own report" if told else "without text, since not every image has a report"
    levels = ", ".join(f"{level:g}" for level in LEVELS)
    return rows, [
        f"Membership: the denoising loss of {len(sets[0])} training and {len(sets[1])} held-out images, {text}, the "
        f"mean over sigma = {levels} with {DRAWS} draws of noise each, the same for every image. An AUC above 0.5 "
        "means membership only where both sets come from one source."
    ]


def _ratios(
    synthetic: Collection, train: Collection, unseen: Collection, name: str, seed: int
) -> tuple[list[Row], list[str]]:
    """The nearest-neighbor ratio of synthetic images, beside that of held-out images."""
    fake, seen, other = (one.features[name] for one in (synthetic, train, unseen))
    ratio = torch.stack([nn_ratio(fake, seen, other, seed=counter(seed, k)).clamp(max=CAP) for k in range(CUTS)], 1)
    interval = bootstrap(_median, ratio, seed=seed) if len(ratio) > 1 else None
    halves = [halved(unseen, counter(seed, k)) for k in range(CUTS)]
    beside = None
    if len(halves[0][0]):
        beside = torch.cat([nn_ratio(other[a], seen, other[b], seed=seed).clamp(max=CAP) for a, b in halves])
    notes = list[str]()
    if beside is not None and _median(beside) > 1.2:
        notes.append(
            f"On {name} features held-out images lie {_median(beside):.2f} times as far from the training images as "
            "from one another: they are not of one source, and ratio, copies and membership are not to be trusted."
        )
    rows = []
    for metric, level, spread in (("median", 0.5, interval), ("1st percentile", 0.01, None)):
        reference = None if beside is None else float(beside.quantile(level))
        rows.append(
            Row(f"nearest-neighbor ratio, {metric}", float(ratio.quantile(level)), len(ratio), features=name,
                interval=spread, reference=reference, against="unseen real images" if reference is not None else "",
                better="reference")
        )  # fmt: skip
    return rows, notes


def _copies(synthetic: Collection, train: Collection, unseen: Collection, name: str) -> tuple[list[Row], list[str]]:
    """The number of copies at the threshold that 1 % of unseen real images reach."""
    fake, seen, other = (one.features[name] for one in (synthetic, train, unseen))
    try:
        threshold = copy_threshold(seen, other, RATE)
    except ValueError as error:
        return [], [f"Copies were not counted on {name} features: {error}."]
    count, n = int(copies(fake, seen, threshold).sum()), len(fake)
    low, high = wilson(count, n)
    expected = "expected of unseen real images"
    return [Row("copies", count, n, "all", name, (low * n, high * n), RATE * n, expected, "lower")], []


def _worst(
    synthetic: Collection, train: Collection, unseen: Collection, name: str, most: int = 8
) -> tuple[str, Image.Image]:
    """The synthetic images nearest to a training image in relation to the nearest held-out one, side by side."""
    fake = synthetic.features[name]
    (to_train, copied), (to_unseen, other) = (nearest(fake, one.features[name]) for one in (train, unseen))
    ratio = torch.where(to_train == to_unseen, 1.0, to_train / to_unseen)
    rows = ratio.sort(stable=True).indices[:most].tolist()
    grid = [
        [synthetic.picture(row, SHOWN) for row in rows],
        [train.picture(int(copied[row]), SHOWN) for row in rows],
        [unseen.picture(int(other[row]), SHOWN) for row in rows],
    ]
    distances = ", ".join(f"{to_train[row]:.3g} / {to_unseen[row]:.3g}" for row in rows)
    caption = (
        f"The synthetic images nearest to a training image for their distance to held-out ones ({name} features). "
        f"Distance to the training / to the held-out image below, from the left: {distances}."
    )
    return caption, sheet(grid, ("synthetic", "nearest training", "nearest held-out"))


def _told_apart(held_out: Collection, unseen: Collection, train: Collection) -> str:
    """How many real images were left out, and of how many it is unknown whose they are."""
    gone = len(held_out) - len(unseen)
    said = (
        f"{gone} of {len(held_out)} real images are training images or of their patients and were left out; "
        f"{len(unseen)} are held out."
    )
    unknown = sum(not known for one in (unseen, train) for known in _known(one))
    if unknown:
        said += (
            f" The patient of {unknown} held-out or training images is unknown: they are told apart by content only."
        )
    return said


def _known(one: Collection) -> list[bool]:
    """Whether the patient of each image is known: a group that is the file's own name is none."""
    return [group != file.relative_to(one.folder).as_posix() for group, file in zip(one.groups, one.files, strict=True)]


def _digests(one: Collection) -> list[str]:
    return list(one.digests) or [sha256(file) for file in one.files]


def _some(one: Collection, most: int, seed: int) -> Collection:
    """At most so many images, chosen by their content and the seed whatever their order, in their order."""
    digests = _digests(one)
    order = sorted(range(len(one)), key=lambda row: counter("membership", seed, digests[row]))
    return one.subset(sorted(order[:most]))


def _median(x: Tensor) -> float:
    return float(x.quantile(0.5))
