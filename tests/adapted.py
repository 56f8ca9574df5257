"""Adapters as training leaves them: every matrix away from zero, saved without the slow comparison."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vlgen.adapter import CONTRACT, Adapter, add, save, use
from vlgen.adapter.contract import slug
from vlgen.adapter.loading import drop
from vlgen.backbone import Backbone
from vlgen.backbone import load as load_backbone

FACTS: Mapping[str, Any] = {"modality": "cxr", "task": "effusion", "steps": 3, "licence": "CC BY 4.0", "images": 12}


@functools.cache
def bare(base: Path) -> Backbone:
    """A backbone that tests share, each leaving it as it was."""
    return load_backbone(base)


def answered(base: Path, *specs: str | Path) -> torch.Tensor:
    """What a backbone answers with these adapters."""
    use(bare(base), specs)
    found = bare(base).probe()
    use(bare(base), [])
    return found


def trained(
    backbone: Backbone, name: str, *, targets: str | Sequence[str] = "attention", seed: int = 0, rank: int = 2
) -> None:
    """Put an adapter on a backbone, alpha twice the rank, and move it as a training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in add(backbone, name, rank=rank, alpha=2.0 * rank, targets=targets, seed=seed):
        step = 0.3 if parameter.ndim > 1 and min(parameter.shape[:2]) == rank else 0.02
        parameter.data += step * torch.randn(parameter.shape, generator=generator)


def stored(
    base: Path,
    folder: Path,
    *,
    name: str = "test-lora",
    targets: str | Sequence[str] = "attention",
    seed: int = 0,
    rank: int = 2,
    facts: Mapping[str, Any] = FACTS,
) -> tuple[Adapter, torch.Tensor]:
    """A trained-like adapter in a folder: its contract, and what the backbone answers with it."""
    backbone = load_backbone(base) if targets == "full" else bare(base)
    trained(backbone, name, targets=targets, seed=seed, rank=rank)
    try:
        return save(backbone, folder, name=name, facts=facts, fresh=False), backbone.probe()
    finally:
        drop(backbone, slug(name))
        use(backbone, [])


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a contract on disk, as nobody should."""
    found = json.loads((folder / CONTRACT).read_text()) | changes
    (folder / CONTRACT).write_text(json.dumps(found))
