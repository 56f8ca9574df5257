"""Wording: numbers, intervals and sentences of an evaluation, the same in the terminal and on the page."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from vlgen.evaluate.scores import Row, Scores, Section

ORDER = ("fidelity", "alignment", "privacy", "utility", "pairs")
ALL = "all"
BETTER = {
    "lower": "lower is better",
    "higher": "higher is better",
    "reference": "the nearer to the reference the better",
    "": "read it beside its reference",
}
ABSENT = "–"
_SAID = 8  # ratios in one sentence
FIRST = ("vlgen", "seed", "features")  # facts in this order before the others
_TOLD_ELSEWHERE = ("folders", "refused", "name", "n")

_ROOT = r"(?:file:/*|~[\w-]*(?=[/\\])|[A-Za-z]:(?=[/\\])|\\(?=\\))?[/\\]"
_START = re.compile(_ROOT)
_WITHIN = re.compile(rf"(?<=[\s\"'`(=,:\[]){_ROOT}(?=[^\s/\\])(?:[^\s/\\]+[/\\])*")
# Texts and identities of patients have no place in what is handed on, whoever may put them into `about`.
_PRIVATE = re.compile(r"(?i)^(reports?|texts?|prompts?|captions?|patients?|patient.?ids?|groups|command)$")


def number(value: float) -> str:
    """Three significant digits, with thousands separators; a whole number in full, so 1 is exact and 1.00 is not.

    >>> [number(x) for x in (0.5, 12345.6, 3, 1234, 0.00012345, 1e-9, -0.0221)]
    ['0.500', '12,300', '3', '1,234', '0.000123', '1.00e-9', '-0.0221']
    """
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    if -5 <= int(power) < 6:
        return f"{float(f'{mantissa}e{power}'):,.{max(0, 2 - int(power))}f}"
    return f"{mantissa}e{int(power)}"


def bracket(interval: tuple[float, float] | None) -> str:
    """[low, high]; "" where there is none."""
    return f"[{number(interval[0])}, {number(interval[1])}]" if interval else ""


def bare(value: object) -> str:
    """As text without what does not belong on a page that is handed on: where files lie, and characters that act.

    An absolute path keeps its last part. Control characters, halves of surrogate pairs (names that are not UTF-8) and
    marks that turn the direction of writing become U+FFFD.
    """
    if isinstance(value, PurePath):
        value = value.name
    text = "".join("\ufffd" if _acts(letter) else letter for letter in str(value))
    if _START.match(text):
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return _WITHIN.sub("", text)


def _acts(letter: str) -> bool:
    if letter.isascii():
        return (letter < " " and letter not in "\n\t") or letter == "\x7f"
    return (
        unicodedata.category(letter) in ("Cc", "Cs")
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def cleaned(value: object, *, private: bool = False) -> object:
    """What JSON can hold, bare: what is not finite is null; `private` drops the keys that name texts or patients."""
    if isinstance(value, Mapping):
        return {bare(k): cleaned(v, private=private) for k, v in value.items() if not (private and named_private(k))}
    if isinstance(value, list | tuple | set | frozenset):
        return [cleaned(v, private=private) for v in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return bare(value)


def named_private(key: object) -> bool:
    """Whether a key of `about` names texts, patients or a command line, which stay where they are."""
    return bool(_PRIVATE.match(str(key)))


def ordered(scores: Scores) -> list[Section]:
    """The sections: fidelity, alignment, privacy, utility, pairs, and what else there is in its own order."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(scores.sections, key=lambda section: rank.get(section.name, len(ORDER)))


def blocks(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, Row]]]]:
    """The rows with their labels, under headings: what stands below each other can be compared.

    Rows of all images come first, by features, with the metric for a label; then those of groups, by metric and
    features, with the group for a label. Each kind of reference has a heading of its own.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[str, Row]]]] = {}
    for row in rows:
        whole = row.group == ALL
        parts = found.setdefault(("" if whole else row.metric, row.features), {})
        parts.setdefault(row.against, []).append((bare(row.metric if whole else row.group), row))
    keys = sorted(found, key=lambda key: key[0] != "")
    return [(_heading(*key, against), lines) for key in keys for against, lines in found[key].items()]


def _heading(metric: str, features: str, against: str) -> str:
    words = [bare(metric[:1].upper() + metric[1:]) or "All images", *([bare(features)] if features else [])]
    return ", ".join([*words, *([f"beside {bare(against)}"] if against else [])])


def folders(about: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Of each folder that was compared, by its part: its name, n, sizes, depths, formats, refused."""
    given = about.get("folders")
    if not isinstance(given, Mapping):
        given = {name: value for name, value in about.items() if isinstance(value, Mapping) and "n" in value}
    return {bare(part): facts for part, facts in given.items() if isinstance(facts, Mapping)}


def facts(given: Mapping[str, object]) -> dict[str, str]:
    """What else is stated of an evaluation or of a folder, as text: vlgen's version, seed and features first."""
    rest = {name: value for name, value in given.items() if name not in (*folders(given), *_TOLD_ELSEWHERE)}
    names = [*(name for name in FIRST if name in rest), *(name for name in rest if name not in FIRST)]
    return {bare(name): said for name in names if not named_private(name) and (said := listed(rest[name]))}


def listed(value: object) -> str:
    """A fact in words: a mapping of counts as "256 x 256 (480), 512 x 512 (20)", a list with commas; "" for nothing."""
    if isinstance(value, Mapping):
        named = {bare(name): one for name, one in value.items() if not named_private(name)}
        if all(isinstance(one, int) for one in named.values()):
            return ", ".join(f"{name} ({count:,})" for name, count in named.items())
        return "; ".join(f"{name}: {listed(one)}" for name, one in named.items())
    if isinstance(value, list | tuple):
        return ", ".join(listed(one) for one in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "" if value is None else bare(value)


def refused(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """(name, reason) of the files of a folder that were left out; the reason does not repeat the name."""
    found = []
    given = facts.get("refused", ())
    for entry in given if isinstance(given, list | tuple) else ():
        name, reason = (entry[0], entry[1]) if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, "")
        own = bare(name).rpartition("/")[2]
        found.append((bare(name), bare(reason).removeprefix(f"{own}: ")))
    return found


def title(scores: Scores) -> str:
    """What was compared with what, by the folders' own names."""
    names = [bare(one.get("name", part)) for part, one in folders(scores.about).items()]
    if len(names) < 2:
        return f"Evaluation of {names[0]}" if names else "Evaluation of images"
    return f"{names[1]} against {names[0]}"


def summary(section: Section) -> str:
    """What the rows say of the section's first figure, and where its reference lies by the interval; no verdict.

    The first is that of all images, by every extractor; where no row is of all images, that of every group that has
    the metric's usual reference. Chance was measured by nobody, so it is not a reference where there is another.
    """
    whole = [row for row in section.rows if row.group == ALL]
    rows = whole or list(section.rows)
    if not rows:
        return "No figure could be computed."
    compared = [row for row in rows if row.ratio is not None]
    measured = [row for row in compared if row.against != "chance"] or compared or rows
    usual = Counter(row.against for row in measured if row.metric == measured[0].metric).most_common(1)[0][0]
    first = next(row for row in measured if row.against == usual)
    same = [row for row in rows if (row.metric, row.against) == (first.metric, first.against)]
    same = [
        row
        for row in same
        if (row.ratio is None) == (first.ratio is None) and (whole or row.features == first.features)
    ]
    counts = {row.n for row in same}
    parts = []
    for row in same[:_SAID]:
        named = [bare(row.features if whole else row.group)] if (row.features or not whole) and len(same) > 1 else []
        named += [f"n = {row.n:,}"] if len(counts) > 1 else []
        said = f"{number(row.value)} {bracket(row.interval)}" if row.ratio is None else f"{number(row.ratio)} times"
        parts.append(said.strip() + (f" ({', '.join(named)})" if named else ""))
    text = bare(first.metric[:1].upper() + first.metric[1:])
    text += f" for {bare(first.group)}" if not whole and len(same) == 1 else ""
    text += f" ({bare(first.features)})" if first.features and (len(same) == 1 or not whole) else ""
    text += f" is {_joined(parts)}"
    if first.ratio is not None:
        text += f" that of {bare(first.against)}" if first.against else " its reference"
    text += f" (n = {first.n:,})" if len(counts) == 1 else ""
    more = len(same) - _SAID
    return f"{text}{f'; {more:,} more groups below' if more > 0 else ''}.{_place(same)}"


def _place(rows: Sequence[Row]) -> str:
    """Where the reference lies by the interval, where all of the rows have both."""
    places = []
    for row in rows:
        if row.interval is None or row.reference is None or not all(map(math.isfinite, row.interval)):
            return ""
        low, high = row.interval
        places.append("below" if row.reference < low else "above" if row.reference > high else "inside")
    if len(set(places)) == 1:
        return f" The reference lies {places[0]} {'each' if len(rows) > 1 else 'the'} interval."
    counted = [f"{place} {places.count(place)}" for place in dict.fromkeys(places)]
    return f" Of {len(places)} intervals, the reference lies {_joined(counted)}."


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
