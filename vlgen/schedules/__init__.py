"""Noise schedules: the decreasing list of noise levels that a solver walks down.

Every schedule is (n + 1,) float32, starts at the largest level and ends with 0; n = 1 gives [hi, 0].
"""

from vlgen.schedules.choice import DISTILLED, SEARCHED, choose
from vlgen.schedules.named import SCHEDULES, exponential, karras, schedule, trailing, uniform
from vlgen.schedules.search import miss, search, searches
from vlgen.schedules.stored import FILE, Stored, home, kept, stored

__all__ = [
    "DISTILLED",
    "FILE",
    "SCHEDULES",
    "SEARCHED",
    "Stored",
    "choose",
    "exponential",
    "home",
    "karras",
    "kept",
    "miss",
    "schedule",
    "search",
    "searches",
    "stored",
    "trailing",
    "uniform",
]
