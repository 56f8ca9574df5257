"""The layout of a report's text: de-identification marks stripped, sections told apart, sentences split."""

from __future__ import annotations

import re

from vlgen.findings import either

SECTIONS = ("indication", "comparison", "technique", "findings", "impression")

_NAMES = {
    "indication": "indications?|clinical indications?|history|clinical history|clinical information|clinical data"
    "|reason for(?: the)?(?: exam| examination| study)?|clinical question|history of present illness|patient history"
    "|symptoms?",
    "comparison": "comparisons?|comparison studies|prior studies|compared to|comparison exams?",
    "technique": "techniques?|exam|examination|procedure|procedure comments?|study|exam type|views?|protocol"
    "|type of exam",
    "findings": "findings?|report|observations?|description|chest findings|result|results|findings/impression"
    "|radiographic findings|imaging findings",
    "impression": "impressions?|conclusions?|opinion|summary|assessment|interpretation|final impression|diagnosis"
    "|imp|final report impression",
}  # fmt: skip
_SECTION = {name: re.compile(rf"(?:{words})", re.IGNORECASE) for name, words in _NAMES.items()}
_ANY = "|".join(_NAMES.values())
# A header ends in a colon and begins a line or a sentence, or stands alone on its line.
_HEADER = re.compile(
    rf"(?:^|\n)[ \t#*>-]{{0,8}}(?:\d{{1,2}}[.)][ \t]?)?({_ANY})[ \t*]{{0,8}}(?::|[ \t]-[ \t]|(?=\n|$))[ \t*]{{0,8}}"
    rf"|(?:(?<=[.!?)\]:;][ ])|(?<=[.!?)\]:;]))({_ANY})[ ]?:[ \t*]{{0,8}}",
    re.IGNORECASE,
)  # fmt: skip
_BRACKETED = re.compile(r"\[\*\*[^\[\]]{0,300}\*\*\]")
_MARK = re.compile(r"(?:X{3,}|_{2,}|\[\*\*|\*\*\])(?:[- ]?(?:years?|months?)[- ]old\b|[- ]?y[./]?o\b)?")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": " - ",
                         "\u00a0": " ", "\u2010": "-", "\u2011": "-", "\r": "\n", "\t": " ", "\f": "\n",
                         "\v": "\n"})  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ud800-\udfff]")

_END = re.compile(r"[.!?]+[\"')\]]{0,2}(?=\s|$)|(?<=[a-z]{2}[a-z)])\.(?=[A-Z][a-z])|\n")
_ABBREVIATIONS = frozenset(either("st|approx|no|fig|cf|ca|etc|resp|jr|sr|pt|lt|rt|inc|ant|post|lat|incl"))
_TITLES = frozenset(either("dr|mr|mrs|ms|vs|prof|e.g|i.e"))
_BULLET = re.compile(r"\s*(?:[-*>\u2022\u00b7#]+\s*|\(?\d{1,2}[.)]\s+|\(?[a-z][)]\s+)+")
_GLUE = frozenset(either("of|the|a|an|or|and|no|with|without|in|to|for|by|from|is|are|on|at|as|than|left|right"))


def clean(text: str) -> str:
    """The text without de-identification marks, control characters and stray spaces; cleaning twice changes nothing."""
    text = _CONTROL.sub(" ", text.translate(_QUOTES))
    text = re.sub(r"\bx-X{3,}", "x-ray", text)
    bare = _spaced(_MARK.sub(" ", _BRACKETED.sub(" ", text)))
    if bare != _spaced(text):  # tidy the punctuation that the marks leave; runs are bounded to keep time linear
        bare = re.sub(r"\([\s,.;:/-]{0,20}\)|\" ?\"", " ", bare)
        bare = re.sub(r"\s{1,3}(?=[,;:)]|[.?!](?!\d))", "", bare)
        bare = re.sub(r":[ ,;.]{1,20}(?=[\s\w])", ": ", bare)
        bare = re.sub(r"[,;]{1,20}(?=[,;.])", "", bare)
        bare = re.sub(r"(?<=[.!?])[,;.]{1,20}(?=\s|$)", "", bare)
        bare = re.sub(r"(?m)^[ ]?[,;.-]{1,20}(?=\s|$)", "", bare)
    return _spaced(re.sub(r"\*{2,}", " ", bare)).strip()


def _spaced(text: str) -> str:
    """The text with single spaces, none at the ends of lines, and at most one empty line in a row."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", re.sub(r" {2,}", " ", text)))


def _name(header: str) -> str:
    return next(name for name, words in _SECTION.items() if words.fullmatch(header))


def sections(text: str) -> tuple[tuple[str, str], ...]:
    """The sections of a cleaned text as (name, text), in their order; text before any header is "findings".

    A first sentence that only names the study ("PA chest radiograph, 36-year-old female.") before a header stays
    with the unnamed text: it is for the header's facts, and holds no finding.
    """
    bodies: dict[str, list[str]] = {}
    name, start = "findings", 0
    for match in _HEADER.finditer(text):
        bodies.setdefault(name, []).append(text[start : match.start()].strip())
        name, start = _name(match[1] or match[2]), match.end()
    bodies.setdefault(name, []).append(text[start:].strip())
    return tuple((name, "\n".join(filter(None, parts))) for name, parts in bodies.items() if any(parts))


def sentences(text: str) -> list[str]:
    """The sentences of a text: decimals, abbreviations and list numbers do not end one; a wrapped line goes on."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        said = text[max(start, match.start() - 120) : match.start()]
        if match[0] == "\n" and _wrapped(said, text[end : end + 80]):
            continue
        if match[0] == ".":
            if _abbreviated(said, text[end : end + 2]):
                continue
            if len(said.strip()) <= 3 and said.strip(" -#(").isdigit():
                continue
        found.append(text[start:end])
        start = end
    found.append(text[start:])
    return [said for said in (" ".join(_unbullet(one).split()) for one in found) if any(c.isalnum() for c in said)]


def _abbreviated(said: str, after: str) -> bool:
    """Whether a full stop ends an abbreviation: always a title's, else where the sentence goes on in lower case."""
    word = said[-12:].rsplit(None, 1)[-1].lower().lstrip("(\"'") if said[-12:].strip() else ""
    return word in _TITLES or (word in _ABBREVIATIONS and after.strip()[:1].islower())


def _unbullet(said: str) -> str:
    mark = _BULLET.match(said)
    return said[mark.end() :] if mark else said


def _wrapped(said: str, after: str) -> bool:
    """Whether a line break is only the margin: the sentence before it goes on behind it."""
    line = said.rsplit("\n", 1)[-1].rstrip()
    after = after.lstrip(" ")
    if not line or after[:1] in ("", "\n", "-", "*", "#", "\u2022", ">") or _BULLET.match(after):
        return False
    if line[-1] in ",-" or line.rsplit(None, 1)[-1].lower() in _GLUE or after[0].islower():
        return True
    return len(line) >= 55
