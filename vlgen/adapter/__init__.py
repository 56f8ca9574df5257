"""Adapters: LoRA weights with a contract that says which backbone they bend, and a loader that holds them to it."""

from __future__ import annotations

# parameters = add(backbone, "mine", rank=16, targets="attention")       B = 0: nothing changes yet
# save(backbone, folder, name="mine", facts={"modality": "us", "steps": 2000, "licence": "cc-by-4.0", "audit": {...}})
# load(backbone, folder), or use(backbone, ["adapters/mine:0.8", "adapters/other"])
from vlgen.adapter.checks import Finding, check, examine
from vlgen.adapter.contract import CONTRACT, WEIGHTS, Adapter, read
from vlgen.adapter.differences import Base
from vlgen.adapter.distilled import Distilled, distilled
from vlgen.adapter.exchange import FORMATS, export, import_
from vlgen.adapter.loading import add, find, load, use
from vlgen.adapter.merging import merge
from vlgen.adapter.saving import amend, save
from vlgen.adapter.shelf import listing
from vlgen.adapter.targets import GROUPS

__all__ = [
    "CONTRACT",
    "FORMATS",
    "GROUPS",
    "WEIGHTS",
    "Adapter",
    "Base",
    "Distilled",
    "Finding",
    "add",
    "amend",
    "check",
    "distilled",
    "examine",
    "export",
    "find",
    "import_",
    "listing",
    "load",
    "merge",
    "read",
    "save",
    "use",
]
