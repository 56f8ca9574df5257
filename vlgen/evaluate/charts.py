"""Charts: ratios to the reference as dots with intervals, and curves with bands, as SVG that a page can hold inline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape

from vlgen.evaluate.scores import Curve, Row
from vlgen.evaluate.wording import bare, number

# One unit is one pixel on a phone, where letters of 11 units can be read; on a wider screen a chart grows a little.
WIDTH = 360
SERIES = 6  # colors of the page's style, s0 to s5; each has a shape of its own, so color alone says nothing
STYLE = """
svg.chart { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg.chart text { fill: var(--fg); } svg.chart .soft { fill: var(--muted); }
svg.chart .grid { stroke: var(--line); stroke-width: 1; } svg.chart .one { stroke: var(--muted); stroke-width: 1.5; }
svg.chart .end { text-anchor: end; } svg.chart .mid { text-anchor: middle; } svg.chart .num { font-size: 10.5px; }
svg.chart .whisker { stroke-width: 2; } svg.chart .cap { stroke-width: 1.2; }
svg.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg.chart .band { opacity: .17; }
svg.chart .head { font-style: italic; paint-order: stroke; stroke: var(--card); stroke-width: 4; }
""" + "".join(f".f{i} {{ fill: var(--s{i}); }} .l{i} {{ stroke: var(--s{i}); }}\n" for i in range(SERIES))
_LOWEST, _HIGHEST = 1e-3, 1e4  # ratios beyond are drawn at the edge, with an arrow; the number beside them is theirs
_EXTREME = 1e100  # what is larger is not drawn: differences would overflow


def dots(title: str, items: Sequence[tuple[str, Row]]) -> str:
    """Ratios to the reference as dots with intervals, on a logarithmic axis; "" where no row has a ratio.

    items  (label, row), drawn from above; consecutive rows of one label share it, rows of one extractor a color

    The interval is that of the value over the reference, which is taken as it is. A ratio of 0, and an end of an
    interval at or below 0, has no place on the axis and is drawn as an arrow at its edge.
    """
    shown = [(bare(label), row) for label, row in items if row.ratio is not None and math.isfinite(row.ratio)]
    if not shown:
        return ""
    names = list(dict.fromkeys(bare(row.features) for _, row in shown))
    lanes: list[tuple[tuple[str, str], list[Row]]] = []
    for label, row in shown:
        if not lanes or lanes[-1][0] != (label, row.against):
            lanes.append(((label, row.against), []))
        lanes[-1][1].append(row)
    left, right = 130, WIDTH - 50
    low, high = _domain([end for _, row in shown for end in _ends(row)])

    def place(ratio: float) -> float:
        inside = min(max(ratio, low), high)
        return left + (right - left) * math.log(inside / low) / math.log(high / low)

    body, top = _legend(names if names != [""] else [], 4)
    start = top
    beside, several = "", len({row.against for _, row in shown}) > 1
    for (label, against), rows in lanes:
        if several and against != beside:
            beside, top = against, top + 20
            body.append(
                _text(4, top - 5, f"beside {bare(against)}" if against else "beside its reference", "soft head")
            )
        lines = textwrap.wrap(label, 19, max_lines=4, placeholder=" …") or [""]
        tall = max(13 * len(lines), 17 * len(rows)) + 7
        middle = top + tall / 2
        body += [
            _text(left - 8, middle + 4 + 13 * (i - (len(lines) - 1) / 2), line, "end") for i, line in enumerate(lines)
        ]
        for i, row in enumerate(rows):
            y = middle + 17 * (i - (len(rows) - 1) / 2)
            body += _dot(row, names.index(bare(row.features)), y, place, (low, high), (left, right))
            body.append(_text(WIDTH - 2, y + 4, number(_ratio(row)), "end num"))
        top += tall
    axis = []
    for tick in _log_ticks(low, high):
        x = place(tick)
        kind = "one" if tick == 1 else "grid"
        axis += [_line(x, start, x, top, kind), _text(x, top + 14, f"{tick:g}", "mid soft num")]
    axis.append(_text((left + right) / 2, top + 30, "value / reference", "mid soft"))
    axis.append(_text(WIDTH - 2, top + 14, "ratio", "end soft num"))
    said = "; ".join(
        f"{label}{' ' + bare(row.features) if row.features else ''} {number(_ratio(row))}" for label, row in shown
    )
    return _svg(f"{title}: {said}", top + 36, [*axis, *body])


def curve(drawn: Curve) -> str:
    """A curve: lines with their intervals as bands, x logarithmic where it spans a factor of 8; "" without points."""
    lines = {bare(name): sorted(filter(_drawable, points)) for name, points in drawn.lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs = sorted({x for points in lines.values() for x, *_ in points})
    ys = [end for points in lines.values() for point in points for end in (point[1], *_band(point))]
    bottom, ceiling = _padded(min(ys), max(ys))
    log = xs[0] > 0 and xs[-1] / xs[0] >= 8
    first, last = (math.log(xs[0]), math.log(xs[-1])) if log else (xs[0], xs[-1])
    if not last > first:
        first, last = first - 1, last + 1
    left, right, top, floor = 46.0, WIDTH - 18.0, 24.0, 200.0

    def across(x: float) -> float:
        return left + (right - left) * ((math.log(x) if log else x) - first) / (last - first)

    def down(y: float) -> float:
        return floor - (floor - top) * (y - bottom) / (ceiling - bottom)

    body = [_text(4, 13, bare(drawn.y), "soft"), _text((left + right) / 2, floor + 34, bare(drawn.x), "mid soft")]
    for tick in _ticks(bottom, ceiling):
        body += [
            _line(left, down(tick), right, down(tick), "grid"),
            _text(left - 6, down(tick) + 4, f"{tick:.6g}", "end soft num"),
        ]
    free = -math.inf
    for tick in xs if len(xs) <= 8 else _ticks(xs[0], xs[-1]):
        if log and tick <= 0:
            continue
        word, x = f"{tick:,.6g}", across(tick)
        if x - 3.2 * len(word) > free:  # a label that would touch the one before is left out
            body.append(_text(x, floor + 16, word, "mid soft num"))
            free = x + 3.2 * len(word)
        body.append(_line(x, floor, x, floor + 4, "grid"))
    for k, points in enumerate(lines.values()):
        spots = [(across(x), down(y)) for x, y, *_ in points]
        bands = [tuple(map(down, _band(point))) for point in points]
        outline = [(x, b[0]) for (x, _), b in zip(spots, bands, strict=True)]
        outline += [(x, b[1]) for (x, _), b in reversed([*zip(spots, bands, strict=True)])]
        if len(points) > 1:
            body.append(f'<polygon class="band f{k % SERIES}" points="{_points(outline)}"/>')
            dash = ' stroke-dasharray="6 3"' if k >= SERIES else ""
            body.append(f'<polyline class="line l{k % SERIES}" points="{_points(spots)}"{dash}/>')
        else:
            body.append(_line(spots[0][0], bands[0][0], spots[0][0], bands[0][1], f"whisker l{k % SERIES}"))
    for k, points in enumerate(lines.values()):  # above all bands
        body += [_mark(k, across(x), down(y)) for x, y, *_ in points]
    legend, height = _legend(list(lines), int(floor) + 44)
    return _svg(f"{bare(drawn.title)}: {bare(drawn.y)} by {bare(drawn.x)}; {', '.join(lines)}", height, body + legend)


def _ratio(row: Row) -> float:
    return 0.0 if row.ratio is None else row.ratio


def _ends(row: Row) -> list[float]:
    """The ratio and the ends of its interval, where these are finite."""
    found = [_ratio(row)]
    if row.interval and row.reference and all(map(math.isfinite, row.interval)):
        found += [end / row.reference for end in row.interval]
    return [end for end in found if math.isfinite(end)]


def _domain(ends: Sequence[float]) -> tuple[float, float]:
    """The axis: all that lies in the drawable range, with a margin, and at least from a half to the double."""
    kept = [min(max(end, _LOWEST), _HIGHEST) for end in ends if end > 0]
    return min([0.5, *kept]) / 1.12, max([2.0, *kept]) * 1.12


def _dot(
    row: Row, k: int, y: float, place: Callable[[float], float], domain: tuple[float, float], edges: tuple[int, int]
) -> list[str]:
    """One ratio: its whisker, an arrow at each edge that it crosses, and its mark."""
    ratio, ends = _ratio(row), _ends(row)
    found, color = [], k % SERIES
    if len(ends) > 1:
        low, high = place(min(ends)), place(max(ends))
        found.append(_line(low, y, high, y, f"whisker l{color}"))
        found += [_line(x, y - 5.5, x, y + 5.5, f"cap l{color}") for x in (low, high)]
    if min(ends) < domain[0]:
        found.append(_shape(color, [(edges[0] - 5, y), (edges[0] + 3, y - 4.5), (edges[0] + 3, y + 4.5)]))
    if max(ends) > domain[1]:
        found.append(_shape(color, [(edges[1] + 5, y), (edges[1] - 3, y - 4.5), (edges[1] - 3, y + 4.5)]))
    return [*found, _mark(k, place(ratio), y)] if domain[0] <= ratio <= domain[1] else found


def _mark(k: int, x: float, y: float) -> str:
    """The shape of series k: circle, square, diamond, triangles up and down, bar."""
    if k % SERIES == 0:
        return f'<circle class="f0" cx="{_at(x)}" cy="{_at(y)}" r="3.9"/>'
    corners = (
        [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        [(0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)],
        [(0, -5), (4.8, 4), (-4.8, 4)],
        [(0, 5), (4.8, -4), (-4.8, -4)],
        [(-2, -5.5), (2, -5.5), (2, 5.5), (-2, 5.5)],
    )[k % SERIES - 1]
    return _shape(k % SERIES, [(x + a, y + b) for a, b in corners])


def _legend(names: Sequence[str], top: int) -> tuple[list[str], int]:
    """Marks and names, in as many lines as they need; and where the next thing may begin."""
    found, x = list[str](), 10.0
    for k, name in enumerate(names):
        short = textwrap.shorten(name, 48, placeholder=" …") or "without features"
        wide = 26 + 5.9 * len(short)
        if x > 10 and x + wide > WIDTH:
            x, top = 10.0, top + 18
        found += [_mark(k, x, top + 8), _text(x + 10, top + 12, short)]
        x += wide
    return found, top + 24 if names else top


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each decade while they are few, then decades; 1 is always among them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = [step * 10.0**power for power in decades for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    return few if len(few) <= 6 else [tick for tick in (10.0**power for power in decades) if low <= tick <= high]


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers from low to high; low itself where they are equal."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 5, 10) if s * scale >= rough * 0.999)
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - margin, high + margin


def _drawable(point: Sequence[float]) -> bool:
    return all(math.isfinite(v) and abs(v) < _EXTREME for v in point[:2])


def _band(point: Sequence[float]) -> tuple[float, float]:
    """Low and high of a point; the point itself where it has none."""
    low, high = point[2:4] if len(point) == 4 else (point[1], point[1])
    return (low, high) if all(v is not None and abs(v) < _EXTREME for v in (low, high)) else (point[1], point[1])


def _at(value: float) -> str:
    return f"{value:.1f}"


def _points(spots: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_at(x)},{_at(y)}" for x, y in spots)


def _shape(color: int, corners: Sequence[tuple[float, float]]) -> str:
    return f'<polygon class="f{color}" points="{_points(corners)}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_at(x1)}" y1="{_at(y1)}" x2="{_at(x2)}" y2="{_at(y2)}"/>'


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{_at(x)}" y="{_at(y)}">{escape(words)}</text>'


def _svg(said: str, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {math.ceil(height)}" role="img" aria-label="{escape(said)}">'
        f"{''.join(body)}</svg>"
    )
