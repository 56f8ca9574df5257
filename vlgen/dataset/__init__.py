"""A folder of images and reports: its rows, what was refused and why, and patient-wise splits."""

from vlgen.dataset.loading import WINDOWS, load, windowed
from vlgen.dataset.rows import Dataset, Row
from vlgen.dataset.splits import split, stated
from vlgen.dataset.tables import records, report_text, texts
from vlgen.dataset.twins import grouped

__all__ = [
    "WINDOWS",
    "Dataset",
    "Row",
    "grouped",
    "load",
    "records",
    "report_text",
    "split",
    "stated",
    "texts",
    "windowed",
]
