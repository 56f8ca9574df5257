"""Samplers: what the solvers are worth on a model: levels searched for it, pictures side by side, error by cost."""

from vlgen.samplers.comparison import Cell, compare, grid
from vlgen.samplers.levels import Found, search_levels, shelve
from vlgen.samplers.plot import plot
from vlgen.samplers.quality import Point, quality
from vlgen.samplers.starts import Starts, starts

__all__ = [
    "Cell",
    "Found",
    "Point",
    "Starts",
    "compare",
    "grid",
    "plot",
    "quality",
    "search_levels",
    "shelve",
    "starts",
]
