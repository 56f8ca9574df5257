"""The stash: tensors that were computed once, in files for their owner alone, under the hash of what they are of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

FACTS = "facts"


def private(folder: Path) -> Path:
    """A folder for what is made of patients' images and reports: made, if need be, for its owner alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
    except OSError as error:
        raise ValueError(f"cannot write into {folder} ({error.strerror}): choose another --out") from None
    return folder


def key(words: object) -> str:
    """The name of what is kept of these words: their hash."""
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]


def stashed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> Path:
    """Write tensors and facts as one file, as a whole or not at all. Raises ValueError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, aside, {FACTS: json.dumps(facts or {})}
        )
        os.chmod(aside, 0o600)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"cannot write into {path.parent} ({error}): free space there, or choose another --out"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return path


def restored(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and facts of a file, or None where there is none that is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[FACTS])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (it is no mapping)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
