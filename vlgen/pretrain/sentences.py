"""Sentences of real reports: does the text tower tell a finding that is present from one that is absent?

The Indiana University chest radiograph reports (CC BY-NC-ND 4.0), which the package torchxrayvision carries, are read
here for measuring and never for training.
"""

from __future__ import annotations

import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlgen.metrics.alignment import auroc
from vlgen.report.mentions import mentions
from vlgen.report.sections import sentences

# finding -> the annotators' headings (MeSH) that say it is there
HEADINGS = {
    "pleural effusion": ("pleural effusion", "hydropneumothorax", "hydrothorax"),
    "cardiomegaly": ("cardiomegaly",),
    "pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "atelectasis": ("pulmonary atelectasis",),
    "opacity": ("opacity", "density", "airspace disease", "infiltrate", "consolidation"),
}


def archive() -> Path | None:
    """The file of the reports in the installed package torchxrayvision; None where there is none."""
    package = find_spec("torchxrayvision")
    found = Path(package.origin).parent / "data" / "NLMCXR_reports.tgz" if package and package.origin else None
    return found if found and found.is_file() else None


def told(path: Path) -> dict[str, list[tuple[str, bool]]]:
    """Finding -> (sentence, present) of every sentence that states it so and whose report's annotators agree.

    The sentence is read by vlgen's own parser, the annotators' headings are of the whole report: a sentence counts as
    present where both say so, and as absent where the parser reads an absence and no heading names the finding.
    """
    found: dict[str, list[tuple[str, bool]]] = {name: [] for name in HEADINGS}
    for said, headings in _reports(path):
        for sentence in sentences(said):
            for finding in mentions(sentence):
                if finding.name in HEADINGS and finding.status != "uncertain":
                    there = bool(headings & set(HEADINGS[finding.name]))
                    if there == (finding.status == "present"):
                        found[finding.name].append((sentence, there))
    return found


def _reports(path: Path) -> Iterator[tuple[str, set[str]]]:
    """(findings and impression, headings) of the reports that were indexed."""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ET.fromstring(file.read())
            parts = {a.get("Label") or "": a.text or "" for a in root.iter("AbstractText")}
            headings = {(m.text or "").lower().split("/")[0] for m in root.iter("major")}
            if headings and "no indexing" not in headings:
                yield " ".join(parts.get(name, "") for name in ("FINDINGS", "IMPRESSION")), headings


@torch.no_grad()
def separation(embed: Callable[[list[str]], Tensor], path: Path) -> dict[str, dict[str, Any]]:
    """Finding -> AUROC, with n, of the similarity to the finding less the similarity to its absence.

    embed  texts -> (N, d), the text tower's pooled vectors
    """
    found = {}
    for name, rows in told(path).items():
        there = F.normalize(embed([name, f"There is {name}."]).mean(0), dim=0)
        absent = F.normalize(embed([f"no {name}", f"There is no {name}."]).mean(0), dim=0)
        read = torch.cat([embed([text for text, _ in rows[k : k + 64]]) for k in range(0, len(rows), 64)])
        scores = F.normalize(read, dim=1) @ (there - absent)
        labels = torch.tensor([present for _, present in rows], device=scores.device)
        found[name] = {"present": int(labels.sum()), "absent": int((~labels).sum()), "auroc": auroc(scores, labels)}
    return found
