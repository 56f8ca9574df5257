"""Checkpoints that survive a kill at any moment: safetensors and JSON, written aside, renamed, verified by sha256."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

MANIFEST, TENSORS, FACTS = "manifest.json", "state.safetensors", "facts.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a long job after `step` steps: named tensors, and facts that fit into JSON."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint beside the earlier ones; the newest `keep` stay, older ones go only afterwards.

    The files are written into a temporary folder, flushed to disk, and the folder is renamed last, so that a folder
    with a checkpoint's name is whole. Raises ValueError where the folder cannot be written or the disk is full; the
    earlier checkpoints are then untouched. Temporary folders that killed runs left behind are removed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder / f"step-{checkpoint.step:09d}"
    aside = folder / f".{final.name}.tmp"
    try:
        for left in folder.glob(".step-*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}, aside / TENSORS)
        (aside / FACTS).write_text(json.dumps(dict(checkpoint.facts), sort_keys=True))
        digests = {name: sha256(aside / name) for name in (TENSORS, FACTS)}
        (aside / MANIFEST).write_text(json.dumps({"step": checkpoint.step, "sha256": digests}))
        for name in (TENSORS, FACTS, MANIFEST):
            flush(aside / name)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        flush(folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):  # the latter is what safetensors raises on a full disk
            raise ValueError(f"the checkpoint could not be written to {folder} ({error}): free space there") from error
        raise
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in the folder whose manifest names both files with the sha256 that they have, or None."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            digests = manifest["sha256"]
            if set(digests) == {TENSORS, FACTS} and all(sha256(path / name) == digests[name] for name in digests):
                facts = json.loads((path / FACTS).read_text())
                return Checkpoint(int(manifest["step"]), load_file(path / TENSORS), facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            continue  # torn or foreign: an older one may be whole
    return None


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
