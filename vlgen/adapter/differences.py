"""Differences between the backbone that an adapter was made for and the one that it meets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from vlgen.adapter.contract import Adapter
from vlgen.modality import modality


class Base(Protocol):
    """What an adapter must know of the backbone that it bends."""

    name: str
    folder: Path
    source: str
    unet: Any
    codec: Any
    text: Any
    prediction: str
    scale: float
    size: int
    card: Mapping[str, Any]
    defaults: Mapping[str, Any]
    kernel: str
    base_kernel: str
    adapters: dict[str, float]
    adapter_sha256: tuple[str, ...]
    modalities: tuple[str, ...]
    windows: dict[str, tuple[float, float]]
    forced: tuple[str, ...]
    carried: dict[str, Any]

    @property
    def fingerprint(self) -> str: ...
    def probe(self) -> Tensor: ...


def named_for(backbone: Base) -> dict[str, Any]:
    """What a contract says of the backbone it is for, field by field; no path of this machine among it."""
    tower = type(backbone.text.tower)
    folder, name = Path(backbone.folder), backbone.name
    return {
        "base": Path(name).name if Path(name).is_absolute() or Path(name).exists() else name,
        "base_fingerprint": backbone.fingerprint,
        "base_revision": folder.name if folder.parent.name == "snapshots" else "",
        "codec": type(backbone.codec).__name__,
        "codec_scale": float(backbone.scale),
        "prediction": backbone.prediction,
        "text_encoder": f"{tower.__module__.split('.')[0]}.{tower.__name__}",
        "max_tokens": int(backbone.text.max_tokens),
        "chunks": int(backbone.text.chunks),
        "size": int(backbone.size),
    }


def compared(adapter: Adapter, backbone: Base) -> dict[str, str]:
    """What a contract says of its backbone beside the one that is here: the difference, or "", by name.

    The revision is not compared: the fingerprint holds the weights themselves, and a revision changes with a comma in a
    README.
    """
    has = named_for(backbone)
    found = {"base": ""}
    if adapter.base_fingerprint != has["base_fingerprint"]:
        revision = f" at revision {adapter.base_revision}" if adapter.base_revision else ""
        found["base"] = (
            f"was made for {adapter.base} ({adapter.base_fingerprint[:12]}){revision}, not for {has['base']} "
            f"({has['base_fingerprint'][:12]})"
        )
    for name in ("prediction", "codec", "codec_scale", "text_encoder", "max_tokens", "chunks", "size"):
        said, is_, what = getattr(adapter, name), has[name], name.replace("_", " ")
        found[what] = "" if said == is_ else f"was made for {what} {said}, but {has['base']} has {is_}"
    foreign = adapter.modality and not adapter.new_modality and is_new(adapter.modality, backbone)
    title = modality(adapter.modality).title if foreign else ""
    return found | {"modality": f"is for {title}, which {has['base']} does not make" if foreign else ""}


def differences(adapter: Adapter, backbone: Base) -> list[str]:
    """Where a backbone is not the one of the contract, the most telling first; nothing where it is."""
    return [difference for difference in compared(adapter, backbone).values() if difference]


def is_new(name: str, backbone: Base) -> bool:
    """Whether a modality is none of those that the backbone's makers name; where they name none, nothing is new."""
    made = backbone.card.get("modalities")
    return bool(made) and name not in list(made or ())
