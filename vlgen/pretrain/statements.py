"""Statements: texts that say a finding is present or absent, beside the two short sentences that decide between them.

No image belongs to them. They teach the text tower what "no" governs, for every finding of the vocabulary, in composed
reports and in the prose of a recipe, where a batch of images seldom holds the pair that would.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from vlgen.findings import SEVERITIES, SIDES, VOCABULARY, Finding
from vlgen.report import Report
from vlgen.report.header import Header
from vlgen.report.phrases import compose
from vlgen.tensors import counter

Statement = tuple[str, str, str]  # a text, the sentence that is true of it, the one that is false
_COMMON = (
    "pleural effusion", "pneumothorax", "cardiomegaly", "atelectasis", "consolidation", "opacity", "pneumonia", "edema",
    "nodule", "mass", "infiltration", "emphysema", "fibrosis", "pleural thickening",
)  # fmt: skip


def prose(paths: Sequence[Path]) -> list[tuple[str, tuple[Finding, ...]]]:
    """(text, its findings that are stated present or absent) of every caption that states one."""
    found = []
    for path in paths:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                report = Report.parse(row.get("caption") or row.get("text") or "")
                stated = tuple(f for f in report.findings if f.status != "uncertain")
                if stated:
                    found.append((report.text, stated))
    return found


def statements(n: int, seed: int, captions: Sequence[tuple[str, tuple[Finding, ...]]]) -> list[Statement]:
    """n statements by seed: a quarter from captions, the rest composed of one to four findings, present or absent."""
    return [_statement(random.Random(counter("statement", seed, k)), captions) for k in range(n)]


def _statement(rng: random.Random, captions: Sequence[tuple[str, tuple[Finding, ...]]]) -> Statement:
    if captions and rng.random() < 0.25:
        text, stated = rng.choice(captions)
        finding = rng.choice(stated)
    else:
        text, finding = _composed(rng)
    other = "absent" if finding.status == "present" else "present"
    return text, _said(rng, Finding(finding.name, finding.status)), _said(rng, Finding(finding.name, other))


def _composed(rng: random.Random) -> tuple[str, Finding]:
    """A text of several findings, and one that it names."""
    modality = rng.choices(("cxr", "ct", "mri", "us"), (8, 1, 2, 1))[0]
    known = [name for name, term in VOCABULARY.items() if modality in term.modalities]
    usual = [name for name in _COMMON if name in known] or known
    names = list(dict.fromkeys(rng.choice(usual if rng.random() < 0.7 else known) for _ in range(rng.randint(1, 4))))
    findings = [_finding(rng, name) for name in names]
    header = Header(modality if rng.random() < 0.5 else "")
    for _ in range(8):  # compose may leave an absent finding unsaid
        text = compose(header, findings, normal=False, rare=True, seed=rng.getrandbits(60))
        lower = text.lower().replace("oe", "e")
        named = [f for f in findings if any(w.split("..")[0].strip() in lower for w in VOCABULARY[f.name].words)]
        if named:
            return text, rng.choice(named)
    return _said(rng, findings[0]), findings[0]


def _finding(rng: random.Random, name: str) -> Finding:
    if rng.random() < 0.55:
        return Finding(name, "absent")
    return Finding(name, "present", rng.choice(SIDES), rng.choice(SEVERITIES))


def _said(rng: random.Random, finding: Finding) -> str:
    """One finding in one short sentence, without a study around it."""
    plain = finding.name if finding.status == "present" else f"no {finding.name}"
    if rng.random() < 0.3:
        return plain
    return compose(Header(), [finding], normal=False, rare=True, seed=rng.getrandbits(60)) or plain
