"""vlgen: medical images from words.

import vlgen
backbone = vlgen.load()
images = vlgen.generate(backbone, "PA chest radiograph. Small left pleural effusion.", seeds=range(4))
vlgen.write(images, "out")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlgen.backbone import Backbone, load
    from vlgen.dataset import Dataset
    from vlgen.distill import distill
    from vlgen.evaluate import Scores, evaluate
    from vlgen.generate import generate
    from vlgen.hijack import denoise
    from vlgen.images import Images, info, write
    from vlgen.modality import MODALITIES, Modality
    from vlgen.pretrain import Recipe, pretrain
    from vlgen.report import Report
    from vlgen.train import train

__version__ = "0.1.0"

# Every public name and its module. They are imported when first used, so that `import vlgen` costs nothing.
_HOME = {
    "Backbone": "backbone",
    "Dataset": "dataset",
    "Images": "images",
    "MODALITIES": "modality",
    "Modality": "modality",
    "Recipe": "pretrain",
    "Report": "report",
    "Scores": "evaluate",
    "denoise": "hijack",
    "distill": "distill",
    "evaluate": "evaluate",
    "generate": "generate",
    "info": "images",
    "load": "backbone",
    "pretrain": "pretrain",
    "train": "train",
    "write": "images",
}
__all__ = [
    "MODALITIES",
    "Backbone",
    "Dataset",
    "Images",
    "Modality",
    "Recipe",
    "Report",
    "Scores",
    "denoise",
    "distill",
    "evaluate",
    "generate",
    "info",
    "load",
    "pretrain",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vlgen' has no attribute {name!r}")
    value = getattr(import_module(f"vlgen.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `vlgen.generate` the function: importing the module vlgen.generate would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, getattr(value, name) if isinstance(value, ModuleType) and name in _HOME else value)


sys.modules[__name__].__class__ = _Package
