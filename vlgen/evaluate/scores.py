"""Scores: every figure of an evaluation as one kind of row, with its n, its interval and what to read it beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = "vlgen.evaluate/1"


@dataclass(frozen=True)
class Row:
    """One figure.

    metric     its name in the field's words: "Frechet distance"
    value      the figure; finite
    n          images that it was computed on (of each set, where there are two)
    group      "all", a modality or a finding
    features   the extractor's name, "" where none is used
    interval   (low, high), 95 %
    reference  the figure to read it beside, and `against`, what that is: "two real halves", "chance"
    better     "lower", "higher", "reference" (the nearer to the reference the better), or "" where neither is
    """

    metric: str
    value: float
    n: int
    group: str = "all"
    features: str = ""
    interval: tuple[float, float] | None = None
    reference: float | None = None
    against: str = ""
    better: str = ""

    @property
    def ratio(self) -> float | None:
        """value / reference; None without a positive reference, and where the value is below 0 by noise."""
        return self.value / self.reference if self.reference and self.reference > 0 <= self.value else None


@dataclass(frozen=True)
class Curve:
    """Points to draw: x and y of several lines, each line a name and its points (x, y, low, high)."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Section:
    """One of the four questions: its rows, sentences that qualify them, curves, and pictures with their captions."""

    name: str
    question: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    pictures: tuple[tuple[str, Image.Image], ...] = ()


@dataclass(frozen=True)
class Scores:
    """An evaluation: what was compared with what, and the sections.

    about  what was done: vlgen's version, seed, features, and of each folder n, refused files, sizes, bits, channels
    """

    about: Mapping[str, Any]
    sections: tuple[Section, ...] = field(default=())

    def section(self, name: str) -> Section:
        """The section of that name; a ValueError lists what there is."""
        for section in self.sections:
            if section.name == name:
                return section
        raise ValueError(f"no section {name!r}: there are {', '.join(s.name for s in self.sections)}")

    def json(self) -> dict[str, Any]:
        """As it is written with --json: schema, about, and per section its rows, notes and curves; no pictures."""
        return {
            "schema": SCHEMA,
            "about": dict(self.about),
            "sections": {
                s.name: {
                    "question": s.question,
                    "rows": [asdict(row) | {"ratio": row.ratio} for row in s.rows],
                    "notes": list(s.notes),
                    "curves": [asdict(curve) for curve in s.curves],
                }
                for s in self.sections
            },
        }
