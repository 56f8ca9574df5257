"""The table: an evaluation in the terminal, section by section, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlgen.evaluate.scores import Row, Scores, Section
from vlgen.evaluate.wording import (
    ABSENT,
    ALL,
    bare,
    blocks,
    bracket,
    facts,
    folders,
    number,
    ordered,
    refused,
    summary,
    title,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_COLUMNS = ("Metric", "Better", "Value", "Interval", "n", "Reference", "Ratio")
_BETTER = {"lower": "lower", "higher": "higher", "reference": "nearer"}
_NARROWEST = 12  # letters of a metric's name in a line
_NAMED = 5  # refused files of a folder that are named; the page and the JSON name all


def tables(scores: Scores) -> list[RenderableType]:
    """What rich prints: what was compared with what, then each section with its sentence, table and notes."""
    return [*_about(scores), *(part for section in ordered(scores) for part in _section(section))]


def render(scores: Scores, console: Console) -> None:
    """Prints the tables to a console of rich."""
    for part in tables(scores):
        console.print(part, highlight=False)


def _about(scores: Scores) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(title(scores), style="bold")]
    for part, one in folders(scores.about).items():
        left_out = refused(one)
        n = one.get("n")
        said = f"{part}: {bare(one.get('name', part))}" + (f", n = {n:,}" if isinstance(n, int) else "")
        parts.append(Text(said + (f", {len(left_out):,} left out" if left_out else "")))
        parts += _refused(left_out)
    given = refused(scores.about)
    parts += [Text(f"{len(given):,} left out"), *_refused(given)] if given else []
    stated = "; ".join(f"{name} {said}" for name, said in facts(scores.about).items())
    return [*parts, Text(stated, style="dim")] if stated else parts


def _refused(left_out: Sequence[tuple[str, str]]) -> list[RenderableType]:
    from rich.text import Text

    named = [Text(f"  {name}: {reason}", style="dim") for name, reason in left_out[:_NAMED]]
    more = len(left_out) - _NAMED
    return [*named, *([Text(f"  and {more:,} more", style="dim")] if more > 0 else [])]


def _section(section: Section) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    name = bare(section.name)
    head = Text.assemble((name[:1].upper() + name[1:], "bold"), "  ", (bare(section.question), "italic"))
    parts: list[RenderableType] = [Padding(head, (1, 0, 0, 0)), Text(summary(section))]
    if section.rows:
        parts.append(_Figures(section.rows))
    notes = [Padding(Text(bare(note), style="dim"), (0, 0, 0, 2)) for note in section.notes]
    return [*parts, *([Text("")] if notes else []), *notes]


@dataclass(frozen=True)
class _Figures:
    """The tables of a section: columns as wide as its widest figures, and the metrics' names in what is left."""

    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        beside = any(row.reference is not None for row in self.rows)
        found = blocks(self.rows)
        table = [_COLUMNS if beside else _COLUMNS[:5], *(_cells(*line, beside) for _, lines in found for line in lines)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        widths[0] = max(_NARROWEST, min(widths[0], options.max_width - sum(widths[1:]) - len(widths)))
        for heading, lines in found:
            yield Text(f"\n{heading}", style="bold")
            first = "Metric" if lines[0][1].group == ALL else "Group"
            yield _table(first, [_cells(*line, beside) for line in lines], widths)


def _cells(label: str, row: Row, beside: bool) -> list[str]:
    cells = [label, _BETTER.get(row.better, ""), number(row.value), bracket(row.interval), f"{row.n:,}"]
    if beside:
        reference = "" if row.reference is None else number(row.reference)
        cells += [reference, ABSENT if row.ratio is None else number(row.ratio)]
    return cells


def _table(first: str, lines: Sequence[Sequence[str]], widths: Sequence[int]) -> Table:
    """Figures in columns that are as wide as in all tables of the section, so that they stand below each other."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for name, width in zip((first, *_COLUMNS[1:]), widths, strict=False):
        plain = name in (first, "Better", "Interval")
        table.add_column(name, width=width, justify="left" if plain else "right", overflow="fold")
    for cells in lines:
        table.add_row(*map(Text, cells))
    return table
