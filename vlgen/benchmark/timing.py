"""Timing: how long the model takes on this machine, in wall and CPU seconds."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from vlgen.backbone import load
from vlgen.generate import generate

REPORT = "PA chest radiograph, 58-year-old man. Large left pleural effusion. No pneumothorax."


def timing(model: str = "mini", repeats: int = 3) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of loading a model, and of one and of four images at its default settings.

    The fastest of `repeats` after a warm-up; peak memory of the process in MiB. Imports are not counted: the first load
    is the warm-up of the second.
    """
    found = {"load": _fastest(lambda: load(model), repeats)}
    backbone = load(model)
    for images in (1, 4):
        found[f"generate {images}"] = _fastest(partial(generate, backbone, REPORT, seeds=range(images)), repeats)
    found["machine"] = {
        "threads": torch.get_num_threads(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return found


def _fastest(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    work()
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        wall, cpu = time.monotonic(), time.process_time()
        work()
        best = min(best, (time.monotonic() - wall, time.process_time() - cpu))
    return {"wall_s": best[0], "cpu_s": best[1], "n": repeats}
