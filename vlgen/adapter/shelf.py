"""The shelf: which adapters lie where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlgen.adapter.card import CARD
from vlgen.adapter.contract import CONTRACT, read
from vlgen.adapter.targets import described
from vlgen.folder import beside


def listing(folders: Sequence[str | Path] | None = None) -> list[dict[str, Any]]:
    """The adapters in some folders, one row each; in ./adapters and in those that came with vlgen if none is given.

    A row: name (its folder's), modality, task, base, kernel, targets, trained (by vlgen: its contract counts steps),
    licence, size_mib, card, folder, and refused: "", or why it cannot be used, and then the rest is empty.
    """
    return [_row(folder) for folder in _there(_shelves() if folders is None else [Path(folder) for folder in folders])]


def names() -> list[str]:
    """The names that `--adapter NAME` finds: of the adapters in ./adapters and of those that came with vlgen."""
    return sorted({folder.name for folder in _there(_shelves())})


def _shelves() -> list[Path]:
    return [Path("adapters"), beside("adapters")]


def _there(places: Sequence[Path]) -> list[Path]:
    """The folders with a contract in some folders, each once."""
    found: dict[Path, Path] = {}
    for place in places:
        for contract in sorted(place.glob(f"*/{CONTRACT}")):
            found.setdefault(contract.parent.resolve(), contract.parent)
    return list(found.values())


def _row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": folder.name, "folder": str(folder), "card": str(folder / CARD), "refused": ""}
    row |= dict.fromkeys(("modality", "task", "base", "kernel", "targets", "licence"), "")
    row |= {"trained": False, "size_mib": 0.0}
    try:
        adapter = read(folder)
        size = (folder / adapter.file).stat().st_size
    except (ValueError, OSError) as error:
        why = str(error) if isinstance(error, ValueError) else "its weights are missing"
        return row | {"refused": why}
    named = {name: getattr(adapter, name) for name in ("modality", "task", "base", "kernel", "licence")}
    targets = "full" if adapter.full else described(adapter.targets)
    return row | named | {"targets": targets, "trained": adapter.steps > 0, "size_mib": round(size / 2**20, 2)}
