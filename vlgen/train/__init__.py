"""Training: a folder of images and reports becomes an adapter; repeating the call resumes exactly."""

from __future__ import annotations

from vlgen.train.audit import audit
from vlgen.train.loop import Step
from vlgen.train.outline import outline
from vlgen.train.settings import Settings
from vlgen.train.timing import train_step_timing
from vlgen.train.tune import train

__all__ = ["Settings", "Step", "audit", "outline", "train", "train_step_timing"]
