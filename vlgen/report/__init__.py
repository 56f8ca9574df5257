"""Radiology reports: read into findings and facts, and written anew from them."""

from vlgen.findings import VOCABULARY, Finding
from vlgen.report.report import Report

__all__ = ["VOCABULARY", "Finding", "Report"]
