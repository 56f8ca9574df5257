"""Planted copies: would a memorized image be found? Training images are re-saved, mildly damaged, and looked for."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from vlgen.evaluate.collection import Collection, Progress, grey
from vlgen.evaluate.fidelity import halved
from vlgen.evaluate.scores import Row, Section
from vlgen.images import fit
from vlgen.metrics.privacy import copies, copy_threshold
from vlgen.metrics.share import wilson
from vlgen.sheet import picture, sheet
from vlgen.tensors import counter, generator

if TYPE_CHECKING:
    from vlgen.features import Extractor

RATE = 0.01
RECALL = 0.95  # of planted copies: features that find fewer cannot tell that there are none
SHOWN = 128  # pixels a side of an image on a contact sheet


def planted(
    synthetic: Collection,
    train: Collection,
    held_out: Collection,
    extractors: Sequence[Extractor],
    *,
    most: int = 200,
    rate: float = RATE,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Section:
    """The power of the copy count: which share of planted copies it finds, and how often it accuses unseen images.

    Up to `most` training images are re-saved as `damaged` makes them, each in the size of a synthetic image, and
    their features are computed anew: a memorizing generator could hand out no better copies in that size. The threshold
    is that of `copy_threshold` at `rate`, calibrated on one half of the held-out patients; the false alarms are
    those of the other half. Intervals are Wilson's, for this one threshold.

    held_out  real images that share no patient with train (vlgen.evaluate.privacy.without)

    Where held-out images are too few, the notes say how many are needed. Raises ValueError where an extractor's
    features are not in the collections.
    """
    chosen = sorted(range(len(train)), key=lambda row: counter("planted", seed, train.files[row].name, row))[:most]
    first, second = halved(held_out, seed)
    need = math.ceil(1 / rate - 1e-9) - 1
    apart = len(first) >= need and len(second) > 0
    rows, notes = list[Row](), list[str]()
    saved = [_resaved(synthetic, train, row, k, seed) for k, row in enumerate(chosen)]
    for extractor in extractors:
        name = extractor.name
        if any(name not in one.features for one in (train, held_out)):
            raise ValueError(f"no {name} features of the training or held-out images: gather both with this extractor")
        seen, unseen = train.features[name], held_out.features[name]
        try:
            threshold = copy_threshold(seen, unseen[first] if apart else unseen, rate)
        except ValueError as error:
            notes.append(f"Planted copies were not looked for on {name} features: {error}.")
            continue
        found = int(copies(_features(extractor, saved, progress), seen, threshold).sum())
        n = len(saved)
        rows.append(
            Row("planted copies found", found / n, n, features=name, interval=wilson(found, n), better="higher")
        )
        if found < RECALL * n:
            notes.append(
                f"On {name} features {found / n:.0%} of the planted copies were found, fewer than {RECALL:.0%}: a low "
                "number of copies says little there."
            )
        if apart:
            accused, n = int(copies(unseen[second], seen, threshold).sum()), len(second)
            rows.append(
                Row("false alarms on held-out real images", accused / n, n, features=name, interval=wilson(accused, n),
                    reference=rate, against="the rate calibrated for", better="lower")
            )  # fmt: skip
    if rows:
        notes.append(
            f"{len(saved)} training images were re-saved in the size of the synthetic ones, moved by 1 or 2 pixels "
            "along each axis, scaled to 98 %, 2 % brighter or darker, as JPEG of quality 75 to 90, and looked for."
        )
    if not apart:
        notes.append(
            f"False alarms were not measured: {len(held_out)} held-out images, and two halves of {need} of different "
            "patients are needed."
        )
    pairs = [[train.picture(row, SHOWN) for row in chosen[:8]], [fit(x, SHOWN) for x in saved[:8]]]
    caption = "Training images (above) and the copies that were planted (below)."
    pictures = ((caption, sheet(pairs, ("training", "planted copy"))),) if rows else ()
    return Section("planted copies", "Would a copy be found?", tuple(rows), tuple(notes), pictures=pictures)


def damaged(x: Tensor, seed: int) -> Tensor:
    """An image as somebody would re-save it: moved by 1 or 2 pixels along each axis, at 98 % scale, 2 % brighter or
    darker, through 8 bits and JPEG of quality 75 to 90.

    x       (1, H, W) in [0, 1]
    result  likewise; the edge is continued where the picture has shrunk or moved
    """
    import numpy as np
    from PIL import Image

    if x.ndim != 3 or x.shape[0] != 1:
        raise ValueError(f"an image of {tuple(x.shape)}: give (1, H, W)")
    height, width = x.shape[-2:]
    random = generator("damaged", seed)
    sign = torch.randint(2, (3,), generator=random).mul(2).sub(1).tolist()
    across, down = torch.randint(1, 3, (2,), generator=random).tolist()
    quality = int(torch.randint(75, 91, (), generator=random))
    move = [2 * sign[0] * across / width, 2 * sign[1] * down / height]
    theta = torch.tensor([[[1 / 0.98, 0.0, move[0]], [0.0, 1 / 0.98, move[1]]]])
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    x = functional.grid_sample(x[None].float(), grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    file = io.BytesIO()
    picture((x[0] * (1 + 0.02 * sign[2])).clamp(0, 1).cpu(), 8).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image).astype(np.float32))[None] / 255


def _resaved(synthetic: Collection, train: Collection, row: int, k: int, seed: int) -> Tensor:
    """A training image, damaged, in the size of the k-th synthetic one."""
    side = min(grey(synthetic.files[k % len(synthetic)])[0].shape[-2:])
    return damaged(train.picture(row, side), counter("planted", seed, k))


def _features(extractor: Extractor, images: Sequence[Tensor], progress: Progress, batch: int = 32) -> Tensor:
    """(N, d) features of images of any sizes; those of one size go through the network together."""
    result = torch.empty(len(images), extractor.dimension)
    sizes: dict[int, list[int]] = {}
    for row, x in enumerate(images):
        sizes.setdefault(x.shape[-1], []).append(row)
    done = 0
    for members in sizes.values():
        for start in range(0, len(members), batch):
            progress(f"{extractor.name} features of planted copies", done, len(images))
            rows = members[start : start + batch]
            result[rows] = extractor.see(torch.stack([images[row] for row in rows])).float().cpu()
            done += len(rows)
    progress(f"{extractor.name} features of planted copies", done, len(images))
    return result
