"""Benchmark: what vlgen costs on this machine, and what its samplers are worth where the truth is known."""

from vlgen.benchmark.frechet import frechet_timing
from vlgen.benchmark.path import path_timing
from vlgen.benchmark.schedules import schedule_ratios
from vlgen.benchmark.timing import timing

__all__ = ["frechet_timing", "path_timing", "schedule_ratios", "timing"]
