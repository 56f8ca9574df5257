"""Feature extractors by name: what a metric on feature matrices sees images, and where there is one, texts with."""

from vlgen.features.extractor import Extractor
from vlgen.features.names import FEATURES, extractor

__all__ = ["FEATURES", "Extractor", "extractor"]
