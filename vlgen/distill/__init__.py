"""Distillation: a model becomes an adapter of itself that needs one, two or four evaluations and no guidance."""

from __future__ import annotations

from vlgen.distill.ladders import Ladder, ladders
from vlgen.distill.outline import outline
from vlgen.distill.settings import Settings
from vlgen.distill.student import distill

__all__ = ["Ladder", "Settings", "distill", "ladders", "outline"]
