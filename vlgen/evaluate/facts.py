"""Facts: what a report states of an image, as labels that an evaluation can count."""

from __future__ import annotations

from collections.abc import Mapping

from vlgen.findings import VOCABULARY
from vlgen.report import Report

_NONE = "none"


def known_findings(report: Report) -> dict[str, bool]:
    """Finding -> stated present or stated absent. A study called normal states the absence of all its modality shows.

    What is uncertain or not mentioned is missing: silence is not absence.
    """
    stated: dict[str, bool] = {}
    if report.normal:
        stated = {name: False for name, term in VOCABULARY.items() if report.modality in term.modalities}
    for finding in report.findings:
        stated.pop(finding.name, None)
    stated |= {f.name: f.status == "present" for f in report.findings if f.status != "uncertain"}
    return stated


def known_traits(report: Report, record: Mapping[str, str]) -> dict[str, str]:
    """The other labels: view, sex, age group, side, and the one class of a study with one diagnosis.

    side   of the findings present, where they agree on left or right
    class  the only finding present, with its kind ("malignant mass"), or "none" where all are stated absent; of
           modalities whose findings exclude one another (brain MRI, breast ultrasound)
    """
    traits = {"view": report.view, "sex": report.sex}
    age = record.get("age", "")
    years = report.age if report.age is not None else float(age) if age.replace(".", "", 1).isdecimal() else None
    if report.child or years is not None:
        traits["age group"] = "child" if report.child or (years is not None and years < 18) else "adult"
    present = [f for f in report.findings if f.status == "present"]
    sides = {f.side for f in present}
    if sides in ({"left"}, {"right"}):
        traits["side"] = sides.pop()
    if report.modality in ("mri", "us"):
        if len(present) == 1:
            traits["class"] = f"{present[0].kind} {present[0].name}".strip()
        elif not present and report.normal:
            traits["class"] = _NONE
    return {name: value for name, value in traits.items() if value}
