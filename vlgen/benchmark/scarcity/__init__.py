"""Scarcity: what an adapter and a full fine-tune learn from few images, and what they memorize, beside the base."""

from vlgen.benchmark.scarcity.forecast import forecast
from vlgen.benchmark.scarcity.outcomes import Outcome, scarcity
from vlgen.benchmark.scarcity.study import SIZES, Study, study

__all__ = ["SIZES", "Outcome", "Study", "forecast", "scarcity", "study"]
