"""DICOM in and out: values in their unit, facts from an allow-list, synthetic images marked as such."""

from vlgen.dicom.reading import FACTS, facts, frames, header, is_dicom, provenance, read
from vlgen.dicom.writing import write

__all__ = ["FACTS", "facts", "frames", "header", "is_dicom", "provenance", "read", "write"]
