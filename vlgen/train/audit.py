"""The audit: what a fine-tune did to the loss, to the images, and to the privacy of what it learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlgen.metrics.alignment import auroc
from vlgen.metrics.distribution import bootstrap
from vlgen.train.losses import mean_and_error

LEAST = 10  # images of either side: below it an interval means nothing
SLIGHT = 0.001  # of the loss: a change below it is nothing to speak of, however sure
NEAR = 0.9  # nearest-neighbor ratio below which images lie near the training images, if the base's did not


@dataclass(frozen=True)
class Losses:
    """Losses with noise that is always the same: of held-out rows, and of rows that training sees."""

    held_out: list[float]
    seen: list[float]


def audit(before: Losses, after: Losses) -> dict[str, Any]:
    """Facts for the contract: either loss before and after with its n, and membership inference by their change.

    The change is of pairs, image by image with the same noise, so that its standard error is far below that of the
    losses. Membership: how well the fall of an image's loss tells whether training saw it, as the area under the ROC
    curve; 0.5 is chance. The loss of the base calibrates each image (Watson et al. 2022, arXiv:2111.08440),
    which makes the attack stronger than a threshold on the loss alone.
    """
    found: dict[str, Any] = {}
    for name, old, new in (
        ("held-out loss", before.held_out, after.held_out),
        ("training loss", before.seen, after.seen),
    ):
        if len(old) != len(new) or not old:
            continue
        a, b = torch.tensor(old), torch.tensor(new)
        change, spread = mean_and_error(b - a)
        figures = {"before": float(a.mean()), "after": float(b.mean()), "change": change, "change_se": spread}
        found[name] = {key: round(v, 6) for key, v in figures.items() if math.isfinite(v)} | {"n": len(a)}
    falls = [
        torch.tensor(a) - torch.tensor(b) for a, b in ((before.seen, after.seen), (before.held_out, after.held_out))
    ]
    if min(map(len, falls)) >= LEAST:
        low, high = bootstrap(_area, *falls)
        found["membership inference, AUC"] = {
            "after": round(_area(*falls), 4), "low": round(low, 4), "high": round(high, 4),
            "n": min(map(len, falls)), "beside": 0.5, "which is": "chance",
        }  # fmt: skip
    found["in words"] = sentences(found)
    return found


def sentences(found: Mapping[str, Any]) -> str:
    """The audit in plain sentences: what was learned, and what was memorized."""
    said = [_learned(found)]
    area = found.get("membership inference, AUC")
    if area and area["low"] > 0.5:
        said.append(
            f"From the loss one can tell with an AUC of {area['after']:.2f} whether an image was trained on: whoever "
            "gets the weights can ask that of a patient's image."
        )
    ratio = found.get("nearest-neighbor ratio, median")
    if ratio and ratio["after"] < NEAR and ratio["after"] < ratio.get("before", 1.0) - 0.05:
        said.append("Its images lie nearer to training images than to unseen ones: it memorized.")
    return " ".join(said)


def _learned(found: Mapping[str, Any]) -> str:
    held, seen = found.get("held-out loss"), found.get("training loss")
    if not held or not seen:
        return "Nothing was held out, so nobody knows whether it learned or memorized."
    noise = max(2 * held.get("change_se", math.inf), SLIGHT * held["before"])
    gap = held["change"] - seen["change"]
    spread = math.hypot(held.get("change_se", math.inf), seen.get("change_se", math.inf))
    if held["change"] > noise and gap > 2 * spread:
        return (
            "The loss on images that it did not see rose: it memorized, so train it for fewer steps or on more images."
        )
    if held["change"] > noise:
        return "The loss rose, on images that it saw as on others: it learned nothing, so lower its learning rate."
    if gap > max(2 * spread, SLIGHT * held["before"], 0.5 * abs(seen["change"])):
        return "The loss fell mostly on images that it saw: much of what it learned, it memorized."
    if held["change"] < -noise:
        return "The loss fell on images that it did not see: what it learned is more than these images."
    return "The loss on images that it did not see hardly changed: it learned little that the base did not know."


def _area(seen: Tensor, held_out: Tensor) -> float:
    """AUROC of the falls of the loss, of images that were seen against those that were not."""
    return auroc(torch.cat([seen, held_out]), torch.cat([torch.ones(len(seen)), torch.zeros(len(held_out))]))
