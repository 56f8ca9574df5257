"""The page: an evaluation as one HTML file that needs nothing else, for a screen, a phone or paper."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from vlgen.evaluate import charts
from vlgen.evaluate.glossary import glossary
from vlgen.evaluate.scores import Curve, Row, Scores, Section
from vlgen.evaluate.style import STYLE
from vlgen.evaluate.wording import (
    ABSENT,
    ALL,
    BETTER,
    bare,
    blocks,
    bracket,
    cleaned,
    facts,
    folders,
    number,
    ordered,
    refused,
    summary,
    title,
)
from vlgen.files import store

if TYPE_CHECKING:
    from PIL import Image

UNCLINICAL = "synthetic images, not for clinical use"
BESIDE = "figures move with n: read each beside its reference"
_SIGNS = {"lower": "↓", "higher": "↑", "reference": "≈"}
_FOLDED = 24  # rows by group beyond which they wait behind a heading
# No script, no network: a browser refuses both even if a name got past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(scores: Scores) -> str:
    """The evaluation as one HTML page: what was compared, a sentence to each question, tables, charts, a glossary.

    The same scores give the same text. Nothing is loaded from elsewhere and nothing runs. All names are escaped, of
    paths only the last part is kept, and texts of reports have no place in it.
    """
    sections = ordered(scores)
    body = [
        f'<a class="vh skip" href="#overview">To the summary</a>\n{_header(scores)}\n<main>',
        _overview(sections),
        *(_section(section, f"s{k}") for k, section in enumerate(sections)),
        _glossary(sections),
        _json(scores),
        f"</main>\n<footer><p><strong>{_capital(UNCLINICAL)}.</strong> {_capital(BESIDE)}.</p></footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title(scores))}</title>\n<style>{STYLE}{charts.STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def write_page(scores: Scores, path: str | Path) -> Path:
    """Writes the page as a whole or not at all; ValueError where the folder cannot be written."""
    return store(Path(path), page(scores).encode("utf-8", "replace"))


def _text(value: object) -> str:
    return escape(bare(value))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _header(scores: Scores) -> str:
    cards = "".join(_folder(part, one) for part, one in folders(scores.about).items())
    stated = " · ".join(f"{escape(name)} {escape(said)}" for name, said in facts(scores.about).items())
    return (
        f'<header><p class="kicker">Evaluation of medical images · {UNCLINICAL}</p>\n<h1>{_text(title(scores))}</h1>'
        + (f'\n<p class="soft">{stated}</p>' if stated else "")
        + (f'\n<div class="cards">{cards}</div>' if cards else "")
        + f"{_refused(scores.about)}</header>"
    )


def _folder(part: str, one: Mapping[str, object]) -> str:
    n = one.get("n")
    count = f'<div class="n">n = {n:,}</div>' if isinstance(n, int) else ""
    stated = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in facts(one).items())
    none = "" if refused(one) else "<dt>left out</dt><dd>none</dd>"
    return (
        f'<div class="card"><p class="kicker">{_text(part)}</p><h3>{_text(one.get("name", part))}</h3>{count}'
        f'<dl class="facts">{stated}{none}</dl>{_refused(one)}</div>'
    )


def _refused(one: Mapping[str, object]) -> str:
    """The files that were left out, with reasons."""
    found = refused(one)
    if not found:
        return ""
    said = "".join(f"<li>{escape(name)}: {escape(reason) or 'no reason given'}</li>" for name, reason in found)
    files = "1 file was" if len(found) == 1 else f"{len(found):,} files were"
    opened = " open" if len(found) <= 3 else ""
    return f'<details{opened}><summary>{files} left out</summary><ul class="refused">{said}</ul></details>'


def _overview(sections: Sequence[Section]) -> str:
    items = "".join(
        f'<li><a href="#s{k}">{_text(_capital(section.name))}</a> <span>{_sentence(section)}</span></li>'
        for k, section in enumerate(sections)
    )
    said = " · ".join(f"{sign} {BETTER[name]}" for name, sign in _SIGNS.items())
    return (
        f'<section class="card" id="overview"><h2>Summary</h2><ul class="overview">{items}</ul>'
        f'<p class="soft">How to read: {said}. Brackets hold an interval, of 95 % unless a note says otherwise; n is '
        f"the number of images unless a note says otherwise; ratio is value over reference, {ABSENT} where there is "
        f"none, drawn with the value's interval over the same reference. {_capital(BESIDE)}.</p></section>"
    )


def _sentence(section: Section) -> str:
    return escape(summary(section)).replace("n = ", "n&nbsp;=&nbsp;")


def _section(section: Section, anchor: str) -> str:
    whole = [row for row in section.rows if row.group == ALL]
    rest = [row for row in section.rows if row.group != ALL]
    notes = "".join(f"<li>{_text(note)}</li>" for note in section.notes)
    parts = [
        f'<section class="card" id="{anchor}"><h2>{_text(_capital(section.name))}</h2>'
        f'<p class="question">{_text(section.question)}</p>',
        f'<p class="lead">{_sentence(section)}</p>',
        f'<ul class="notes">{notes}</ul>' if notes else "",
        _table(section.name, whole),
        _figures([*_ratios(whole), *map(_curve, section.curves)]),
        *(_picture(caption, image) for caption, image in section.pictures),
    ]
    if rest:
        inner = _figures(list(_by_group(section.rows))) + _table(f"{section.name}, by group", rest)
        groups = len({row.group for row in rest})
        counted = f"By group: {groups:,} group{'s' * (groups != 1)}, {len(rest):,} figure{'s' * (len(rest) != 1)}"
        opened = " open" if len(rest) <= _FOLDED or not whole else ""
        parts.append(f"<details{opened}><summary>{counted}</summary>{inner}</details>")
    return "\n".join(part for part in parts if part) + "\n</section>"


def _table(name: str, rows: Sequence[Row]) -> str:
    """The figures under their headings; without the columns of references where there are none."""
    if not rows:
        return ""
    beside = any(row.reference is not None for row in rows)
    heads = [
        "Metric" if rows[0].group == ALL else "Group",
        "Value [interval]",
        "n",
        *(["Reference", "Ratio"] if beside else []),
    ]
    parts, found = [], blocks(rows)
    for heading, held in found:
        top = f'<tr><th scope="rowgroup" colspan="{len(heads)}">{escape(heading)}</th></tr>'
        plain = len(found) == 1 and heading == "All images"
        parts.append(f"<tbody>{'' if plain else top}{''.join(_row(*line, beside) for line in held)}</tbody>")
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="Table: {_text(name)}"><table>'
        f"<caption>Figures: {_text(name)}</caption><thead><tr>{columns}</tr></thead>{''.join(parts)}</table></div>"
    )


def _row(label: str, row: Row, beside: bool) -> str:
    sign = _SIGNS.get(row.better, "")
    said = f'<span class="dir" aria-hidden="true">{sign}</span><span class="vh">, {BETTER[row.better]}</span>' * bool(
        sign
    )
    interval = f'<span class="ci">{bracket(row.interval)}</span>' if row.interval else ""
    cells = f'<td><span class="num">{number(row.value)}</span>{interval}</td><td class="num">{row.n:,}</td>'
    if beside:
        reference = ABSENT if row.reference is None else number(row.reference)
        ratio = ABSENT if row.ratio is None else number(row.ratio)
        cells += f'<td class="num">{reference}</td><td class="num">{ratio}</td>'
    return f'<tr><th scope="row">{escape(label)}{said}</th>{cells}</tr>'


def _signed(row: Row) -> str:
    return f"{row.metric}\u00a0{_SIGNS.get(row.better, '')}".strip()


def _ratios(rows: Sequence[Row]) -> Iterator[str]:
    """The ratios of all images in one chart, by what the reference is."""
    chosen = [row for row in rows if row.ratio is not None]
    kinds = list(dict.fromkeys(row.against for row in chosen))
    metrics = list(dict.fromkeys(row.metric for row in chosen))
    chosen.sort(key=lambda row: (kinds.index(row.against), metrics.index(row.metric)))
    name = f"Ratio to {bare(kinds[0])}" if len(kinds) == 1 and kinds[0] else "Ratio to the reference"
    yield _figure(name, charts.dots(name, [(_signed(row), row) for row in chosen]))


def _by_group(rows: Sequence[Row]) -> Iterator[str]:
    """One chart to each metric that several groups have a ratio of."""
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = [row for row in rows if row.metric == metric and row.ratio is not None]
        groups = list(dict.fromkeys(row.group for row in chosen))
        if len(groups) < 2:
            continue
        kinds = list(dict.fromkeys(row.against for row in chosen))
        chosen.sort(key=lambda row: (kinds.index(row.against), row.group != ALL, groups.index(row.group)))
        name = f"{bare(_capital(_signed(chosen[0])))}, by group"
        yield _figure(name, charts.dots(name, [(row.group, row) for row in chosen]))


def _figure(name: str, drawn: str, below: str = "") -> str:
    if not drawn:
        return ""
    return f"<figure><figcaption>{escape(name)}</figcaption>{drawn}{below}</figure>"


def _figures(drawn: Sequence[str]) -> str:
    found = "".join(drawn)
    return f'<div class="figures">{found}</div>' if found else ""


def _curve(one: Curve) -> str:
    """A curve, and its points as a table for who cannot see it."""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{number(x)}</td><td>{number(y)}</td>'
        f"<td>{bracket((low, high))}</td></tr>"
        for name, points in one.lines.items()
        for x, y, low, high in points
    )
    heads = "".join(f'<th scope="col">{_text(head)}</th>' for head in ("line", one.x, one.y, "interval"))
    points = (
        f'<details><summary>The points</summary><div class="wide" role="region" tabindex="0" '
        f'aria-label="Points: {_text(one.title)}"><table><caption>{_text(one.title)}</caption><thead><tr>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div></details>"
    )
    return _figure(bare(one.title), charts.curve(one), points)


def _picture(caption: str, image: Image.Image) -> str:
    """A picture with its caption; of the image only the pixels: what else it carries may be anything."""
    from PIL.PngImagePlugin import PngInfo

    plain, file, marks = image.copy(), io.BytesIO(), PngInfo()
    plain.info = {}
    marks.add_text("Comment", f"Evaluation by vlgen; may show {UNCLINICAL}, beside real ones")
    plain.save(file, "PNG", optimize=True, pnginfo=marks)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return (
        f'<figure class="picture"><img src="data:image/png;base64,{data}" {size} alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _glossary(sections: Sequence[Section]) -> str:
    entries = glossary(row for section in sections for row in section.rows)
    said = "".join(
        f"<dt>{escape(one.name)}</dt><dd>{escape(_capital(one.text))}. {_capital(one.better)}.{_paper(one.paper)}</dd>"
        for one in entries
    )
    return (
        f'<section class="card" id="glossary"><h2>Glossary</h2><dl class="glossary">{said}</dl></section>'
        if said
        else ""
    )


def _paper(paper: str) -> str:
    return f' <span class="soft">{escape(paper)}.</span>' if paper else ""


def _json(scores: Scores) -> str:
    whole = scores.json()
    found = {
        "schema": whole["schema"],
        "about": cleaned(whole["about"], private=True),
        "sections": cleaned(whole["sections"]),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    return f'<details class="json"><summary>All figures as JSON</summary><pre>{escape(text)}</pre></details>'
