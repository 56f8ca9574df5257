"""Weights files of adapters: safetensors whose bytes follow from what they hold, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LORA = "lora_adapter_metadata"  # the header entry from which diffusers takes rank and alpha
OWN = "vlgen_adapter"  # the header entry in which exported files carry their contract


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file: the same tensors and metadata give the same bytes, in any process.

    safetensors writes its metadata in an order that changes from process to process, and with it the sha256; so the
    header is written again with its names sorted.
    """
    from safetensors.torch import save

    plain = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    length = int.from_bytes(plain[:8], "little")
    header = {"__metadata__": {"format": "pt", **(metadata or {})}} | json.loads(plain[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + plain[8 + length :]


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; pickles are refused by name."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.is_file():  # a pipe would keep us waiting
        raise ValueError(f"{path} cannot be read: give an adapter's safetensors file")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:
        raise ValueError(f"{path} cannot be read: give an adapter's safetensors file") from None
    # A safetensors file may begin with the same bytes, which are the length of its header; then a brace follows.
    if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise ValueError(f"{path} is a pickle, not a safetensors file: it could run code, so it is never read")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
        return load_file(path), metadata
    except (SafetensorError, OSError):
        raise ValueError(f"{path} is not a safetensors file, or is damaged: no other format is read") from None


def header(metadata: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """An entry of a file's metadata that is a JSON object, or None."""
    try:
        found = json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that no training gives: not finite, or above 1e4."""
    for name, value in ((name, value.detach()) for name, value in tensors.items()):
        if value.dtype not in FLOATS:
            raise ValueError(
                f"adapter {where}: {name!r} holds {value.dtype}, and must hold floating-point numbers of 16 to 64 bits"
            )
        if value.numel() and (not bool(torch.isfinite(value).all()) or float(value.abs().max()) > 1e4):
            raise ValueError(f"adapter {where}: {name!r} holds values that are not finite or above 1e4: it is damaged")


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float16, half the size, if that changes none of them; otherwise as they are."""
    half = {name: value.detach().half() for name, value in tensors.items()}
    same = all(torch.equal(half[name].to(value.dtype), value) for name, value in tensors.items())
    return half if same else dict(tensors)
