"""Plot: error by cost of several solvers, both axes logarithmic, as one SVG file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from vlgen.samplers.quality import Point

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 600, 40, 410
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#4b4b4b", "#e69f00")  # Okabe and Ito
ROOM = 14  # between two names at the right


def plot(points: Sequence[Point], title: str) -> str:
    """Distance by network evaluations, a line for each solver with its name at the end.

    Stochastic solvers are dashed: they leave the path that the distance is measured to. Points without a finite
    distance above 0 are left out; ValueError where nothing is left.
    """
    shown = [p for p in points if p.distance > 0 and math.isfinite(p.distance)]
    if not shown:
        raise ValueError("there is no finite distance to plot: measure more solvers or budgets")
    lines: dict[str, list[Point]] = {}
    for point in shown:
        lines.setdefault(point.solver.partition(":")[0] if point.schedule == "" else point.solver, []).append(point)
    xs, ys = [p.evaluations for p in shown], [p.distance for p in shown]
    (x0, x1), (y0, y1) = _span(min(xs), max(xs)), _span(min(ys), max(ys))

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(x / x0) / math.log(x1 / x0)

    def down(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * math.log(y / y0) / math.log(y1 / y0)

    body = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', _text(LEFT, 22, title, weight="600")]
    for tick in _ticks(y0, y1):
        y = down(tick)
        body.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        body.append(_text(LEFT - 6, y + 4, f"{tick:g}", anchor="end"))
    for x in sorted(set(_ticks(x0, x1))):
        body.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{BOTTOM}" stroke="#eee"/>')
        body.append(_text(across(x), BOTTOM + 16, f"{x:g}", anchor="middle"))
    body.append(_text((LEFT + RIGHT) / 2, HEIGHT - 12, "network evaluations", anchor="middle"))
    body.append(_text(LEFT, TOP - 4, "distance to 200 steps of Heun from the same noise (latents of unit variance)"))
    ends = []
    for k, (name, line) in enumerate(lines.items()):
        spots = [(across(p.evaluations), down(p.distance)) for p in sorted(line, key=lambda p: p.evaluations)]
        color, dash = COLORS[k % len(COLORS)], ' stroke-dasharray="5 3"' if line[0].stochastic else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in spots]
        ends.append((spots[-1], name, color))
    ends.sort(key=lambda end: end[0][1])
    for y, ((x, level), name, color) in zip(_apart([spot[1] for spot, *_ in ends]), ends, strict=True):
        leader = f'x1="{x + 4:.1f}" y1="{level:.1f}" x2="{RIGHT + 14}" y2="{y:.1f}"'
        body.append(f'<line {leader} stroke="{color}" opacity="0.35"/>')
        body.append(_text(RIGHT + 18, y + 4, name, color=color))
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    letters = 'font-family="system-ui, sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}" {letters}>'
        f"{''.join(body)}</svg>\n"
    )


def _span(low: float, high: float) -> tuple[float, float]:
    return low / 1.1, high * 1.1


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade, as far as they lie between."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in decades for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]


def _apart(levels: Sequence[float]) -> list[float]:
    """Rising levels moved as little as lets names stand apart, and none below the plot."""
    found: list[float] = []
    for level in levels:
        found.append(max(level, found[-1] + ROOM) if found else max(level, TOP))
    over = BOTTOM + ROOM - found[-1]
    for k in range(len(found) - 1, -1, -1):  # what hangs out below is pushed up, and pushes the next
        most = BOTTOM + ROOM if k == len(found) - 1 else found[k + 1] - ROOM
        found[k] = min(found[k], most) if over < 0 else found[k]
    return found


def _text(x: float, y: float, words: str, *, anchor: str = "start", color: str = "#222", weight: str = "400") -> str:
    look = f'text-anchor="{anchor}" fill="{color}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>'
