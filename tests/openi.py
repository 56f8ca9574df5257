"""The Indiana University chest radiograph reports and their MeSH headings, where an installed package carries them."""

from __future__ import annotations

import re
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

# The annotators' MeSH headings; a round or nodular opacity is how they index a nodule.
MESH = {
    "pleural effusion": "pleural effusion|hydropneumothorax|hydrothorax", "cardiomegaly": "cardiomegaly",
    "pneumothorax": "pneumothorax|hydropneumothorax", "atelectasis": "pulmonary atelectasis",
    "consolidation|opacity|infiltration": "opacity|consolidation|airspace disease|infiltrate|density",
    "nodule|mass": "nodule|mass|round",
    "emphysema|COPD": "pulmonary emphysema|emphysema|bullous emphysema|pulmonary disease, chronic obstructive",
    "edema|congestion": "pulmonary edema|pulmonary congestion", "fracture": "fractures, bone", "pneumonia": "pneumonia",
    "granuloma": "calcified granuloma|granuloma|granulomatous disease", "scoliosis": "scoliosis",
    "scarring": "cicatrix",
    "hernia": "hernia, hiatal|hernia, diaphragmatic",
}  # fmt: skip


def indexed() -> list[tuple[int, str, set[str]]]:
    """(number, text, MeSH headings) of the reports that have a text and were indexed."""
    package = find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which carries the reports, is not installed")
    archive = Path(package.origin).parent / "data" / "NLMCXR_reports.tgz"
    if not archive.exists():
        pytest.skip("this torchxrayvision carries no reports")
    reports = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ET.fromstring(file.read())
            said = {a.get("Label") or "": a.text or "" for a in root.iter("AbstractText")}
            heads = [(m.text or "").lower().split("/") for m in root.iter("major")]
            mesh = {"round" if head[0] in ("opacity", "density") and "round" in head else head[0] for head in heads}
            if (said.get("FINDINGS") or said.get("IMPRESSION")) and "no indexing" not in mesh:
                number = int(re.findall(r"\d+", member.name)[-1])
                reports.append((number, "\n".join(f"{name}: {text}" for name, text in said.items() if text), mesh))
    return reports


def score(counts: Counter[tuple[str, bool, bool]], names: list[str]) -> tuple[int, float, float, float]:
    """(n, precision, recall, F1) of `names` together, from counts of (name, annotated, read)."""
    tp, fp, fn = (sum(counts[n, *pair] for n in names) for pair in ((True, True), (False, True), (True, False)))
    return tp + fn, tp / max(1, tp + fp), tp / max(1, tp + fn), 2 * tp / max(1, 2 * tp + fp + fn)
