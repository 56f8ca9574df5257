"""The page, its charts, and the table in the terminal: every figure is in it, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlgen.evaluate import charts
from vlgen.evaluate.glossary import glossary
from vlgen.evaluate.page import page, write_page
from vlgen.evaluate.scores import Curve, Row, Scores, Section
from vlgen.evaluate.table import render, tables
from vlgen.evaluate.wording import bare, blocks, bracket, number, summary

HALVES = "two real halves"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """The page as a browser sees it: tags in balance, attributes, and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.lines: list[list[str]] = []  # cells of every table row
        self.text = self.pre = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} repeats an attribute"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {"svg"} & set(self.open) and tag not in VOID, f"<{tag}/> means <{tag}> outside of SVG"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        self.pre += data if "pre" in self.open else ""
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def example() -> Scores:
    """An evaluation with all that occurs: groups, two extractors, no reference, below 0, curves, pictures, refusals."""
    fidelity = (
        Row("Frechet distance", 12.34, 500, "all", "imagenet", (11.1, 13.8), 6.83, HALVES, "lower"),
        Row("Frechet distance", 10.8, 500, "all", "mini", (9.68, 12.0), 4.78, HALVES, "lower"),
        Row("kernel distance", -0.00046, 500, "all", "imagenet", (-0.0012, 0.0011), 0.00094, HALVES, "lower"),
        Row("precision", 0.511, 500, "all", "imagenet", (0.471, 0.551), 0.79, HALVES, "reference"),
        Row("Frechet distance", 24.51, 1112, "pleural effusion", "imagenet", (22.1, 27.5), 14.4, HALVES, "lower"),
        Row("Frechet distance", 34.2, 88, "cardiomegaly", "imagenet", None, 16.3, HALVES, "lower"),
    )
    lines = {"real": [(25, 0.6, 0.54, 0.66), (500, 0.84, 0.82, 0.86)], "both": [(25, 0.68, 0.62, 0.74)]}
    privacy = (
        Row("copies", 3, 500, "all", "imagenet", (1.0, 8.7), 5.0, "expected of unseen real images", "lower"),
        Row("planted copies found", 0.98, 50, "all", "imagenet", (0.89, 1.0), better="higher"),
    )
    refused = [["p7/scan.png", "scan.png: not a readable PNG file (OSError)"]]
    about = {
        "vlgen": "0.2.0",
        "seed": 7,
        "features": ["imagenet", "mini"],
        "folders": {
            "real": {"name": "nih", "n": 1240, "sizes": {"256 x 256": 1180, "512 x 512": 60}, "refused": refused},
            "synthetic": {"name": "mini", "n": 500, "depths": {"8 bit": 500}, "formats": {"PNG": 500}, "refused": []},
        },
    }
    sections = (
        Section("utility", "Do they help?", curves=(Curve("AUROC", "labels", "AUROC", lines),), notes=("Few labels.",)),
        Section("privacy", "Do they give away others?", privacy),
        Section(
            "fidelity", "How real?", fidelity, ("At equal n.",), pictures=(("A sheet.", Image.new("L", (40, 20), 9)),)
        ),
    )
    return Scores(about, sections)


def shown(scores: Scores, width: int = 80) -> str:
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    render(scores, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_numbers_have_three_digits_and_whole_numbers_are_exact() -> None:
    expected = {
        0.5: "0.500", 1.0: "1", 0.99999: "1.00", 0.0: "0", 12.345: "12.3", 99.96: "100", 1234.5: "1,230",
        1234.0: "1,234", 999_999.7: "1.00e6", 0.00012345: "0.000123", 3e-7: "3.00e-7", -0.0221: "-0.0221",
        1e300: "1.00e300", math.inf: "inf",
    }  # fmt: skip
    assert {value: number(value) for value in expected} == expected
    assert number(-0.0) == "0"
    assert bracket((-0.5, 1234.5)) == "[-0.500, 1,230]" and bracket(None) == ""
    for value in (0.5004, 7.777, 123.4, 45678.9, -0.00321, 8.8e-9):
        assert math.isclose(float(number(value).replace(",", "")), value, rel_tol=5e-3), (
            "three digits: half of the last"
        )


def test_page_is_well_formed_and_repeatable() -> None:
    first = page(example())
    read = Reader(first)
    assert page(example()) == first, "the same scores give the same bytes"
    assert [tag for tag, _ in read.tags[:3]] == ["html", "head", "meta"]
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in read.all("a")} <= set(ids), "every link leads to a part of the page"
    headings = re.findall(r"<h2>(.*?)</h2>", first)
    assert headings == ["Summary", "Fidelity", "Privacy", "Utility", "Glossary"], "in the order of the questions"
    with pytest.raises(AssertionError, match="closes"):
        Reader(first.replace("</table>", "", 1))


def test_every_figure_stands_in_its_own_line() -> None:
    lines = [" | ".join(cells) for cells in Reader(page(example())).lines]
    for section in example().sections:
        for row in section.rows:
            label = row.metric if row.group == "all" else row.group
            cells = [number(row.value) + bracket(row.interval), f"{row.n:,}"]
            cells += [number(row.reference) if row.reference else "–", number(row.ratio) if row.ratio else "–"]
            found = [line for line in lines if line.startswith(label) and line.endswith(" | ".join(cells))]
            assert len(found) == 1, f"{label}: {cells}"
    assert any(line.startswith("All images, imagenet, beside two real halves") for line in lines)
    assert any(line.startswith("Frechet distance, imagenet, beside two real halves") for line in lines), "by group"
    assert ["real", "25", "0.600", "[0.540, 0.660]"] in Reader(page(example())).lines, "a curve's points, as a table"


def test_page_says_what_was_compared() -> None:
    read = Reader(page(example()))
    assert "mini against nih" in read.text and "vlgen 0.2.0 · seed 7 · features imagenet, mini" in read.text
    for words in ("n = 1,240", "256 x 256 (1,180), 512 x 512 (60)", "8 bit (500)", "PNG (500)", "1 file was left out"):
        assert words in read.text, words
    assert "p7/scan.png: not a readable PNG file (OSError)" in read.text
    for words in ("ynthetic images, not for clinical use", "igures move with n: read each beside its reference"):
        assert words in read.text[read.text.index("Glossary") :], words
    whole = replace(example(), about={"vlgen": "0.2.0", "pairs": 3, "refused": [["a.png", "a.png: no partner"]]})
    read = Reader(page(whole))
    assert "Evaluation of images" in read.text and "pairs 3" in read.text and "a.png: no partner" in read.text
    Reader(page(Scores({})))
    assert "No figure could be computed" in Reader(page(Scores({}, (Section("fidelity", "?"),)))).text


def test_summaries_say_what_the_rows_say() -> None:
    fidelity = example().section("fidelity")
    assert summary(fidelity) == (
        "Frechet distance is 1.81 times (imagenet) and 2.26 times (mini) that of two real halves (n = 500). "
        "The reference lies below each interval."
    )
    one = replace(fidelity, rows=fidelity.rows[:1])
    start = "Frechet distance (imagenet) is 1.81 times that of two real halves (n = 500)."
    assert summary(one) == f"{start} The reference lies below the interval."
    for interval, place in (((5.0, 6.9), "inside"), ((1.0, 2.0), "above")):
        moved = replace(one, rows=(replace(one.rows[0], interval=interval),))
        assert summary(moved) == f"{start} The reference lies {place} the interval."
    assert summary(replace(one, rows=(replace(one.rows[0], interval=None),))) == start
    negative = replace(fidelity, rows=fidelity.rows[2:3])
    assert summary(negative).startswith("Kernel distance (imagenet) is -0.000460 [-0.00120, 0.00110] (n = 500).")
    groups = replace(fidelity, rows=(*(replace(fidelity.rows[4], group=f"both {n}", n=n) for n in (25, 50)),))
    assert summary(groups).startswith(
        "Frechet distance (imagenet) is 1.70 times (both 25, n = 25) and 1.70 times (both 50"
    )
    chance = Row("AUROC", 0.9, 50, "real 25", "imagenet", (0.8, 1.0), 0.5, "chance", "higher")
    assert "chance" not in summary(replace(groups, rows=(chance, *groups.rows))), "something measured comes first"
    assert "that of chance" in summary(replace(groups, rows=(chance,)))
    mixed = replace(one, rows=(one.rows[0], replace(fidelity.rows[1], interval=(4.0, 5.0))))
    assert summary(mixed).endswith("Of 2 intervals, the reference lies below 1 and inside 1.")


HOSTILE = "<script>alert('x\")</script>&amp;<img src=http://x.test/a.png>"


def test_what_users_name_is_text() -> None:
    row = Row(HOSTILE, 1.5, 9, HOSTILE, HOSTILE, (1.0, 2.0), 1.2, HOSTILE, "lower")
    other = replace(row, group=HOSTILE + "2")
    curve = Curve(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: [(1, 1, 0, 2), (2, 2, 1, 3)]})
    section = Section(
        HOSTILE,
        HOSTILE,
        (row, other, replace(row, group="all")),
        (HOSTILE,),
        (curve,),
        ((HOSTILE, Image.new("L", (9, 9))),),
    )
    one = {"name": HOSTILE, "n": 5, HOSTILE: {HOSTILE: 5}, "refused": [[HOSTILE, HOSTILE]]}
    about = {"vlgen": HOSTILE, HOSTILE: HOSTILE, "folders": {HOSTILE: one, "b": one}}
    text = page(Scores(about, (section,)))
    read = Reader(text)
    assert not read.all("script") and len(read.all("img")) == 1 and "<script" not in text.lower()
    assert read.text.count(HOSTILE) > 20, "it is there, as text"
    assert not [a for _, a in read.tags if {name for name in a if name.startswith("on")}]
    section = replace(section, rows=(*section.rows, replace(row, metric="[red]m", group="all")))
    printed = shown(Scores(about | {"seed": "[red]1"}, (replace(section, notes=("[bold]note",)),)), 200)
    assert (
        HOSTILE in printed and "seed [red]1" in printed and "[bold]note" in printed and "[red]m" in printed.lower()
    ), "markup is text too"


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = page(example())
    read = Reader(text)
    for tag, attrs in read.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image")
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert attrs.get(name, "#")[:1] == "#" or attrs[name].startswith(("data:image/png;base64,", "data:,"))
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "img-src data:" in policy and "script" not in policy


def test_places_texts_and_control_characters_stay_behind() -> None:
    inside = "/srv/hospital/ward"
    refused = [("x\x1b[31m\udcff.png", f"see {inside}/x")]
    about = {
        "command": f"vlgen evaluate {inside}/real",
        "reports": ["Small left pleural effusion in Mr. Ng."],
        "masks": f"{inside}/masks",
        "elsewhere": Path(inside) / "b",
        "windows share": "\\\\host\\ward\\set",
        "folders": {
            "real": {"name": f"{inside}/nih", "n": 3, "patients": ["Ng"], "refused": refused},
            "synthetic": {"name": "~/ward/mini", "n": 3, "home": "C:\\ward\\mini"},
        },
    }  # fmt: skip
    row = Row("copies", 1.0, 9, f"{inside}/a", "C:\\ward\\weights.safetensors", (0.5, 2.0), 1.0, f"of {inside}/real")
    curve = Curve(f"{inside}/t", "x", "y", {f"{inside}/l": [(1.0, 2.0, 1.0, 3.0)]})
    noted = Image.new("L", (30, 10), 7)
    noted.info = {"report": "Mr. Ng", "icc_profile": b"Ng" * 20}
    secret = PngInfo()
    secret.add_text("report", "Mr. Ng")
    stored = io.BytesIO()
    noted.save(stored, "PNG", pnginfo=secret)
    section = Section("privacy", "?", (row, replace(row, group="all")), (f"in {inside}/x.png",), (curve,),
                      ((f"{inside}/sheet.png", Image.open(stored)),))  # fmt: skip
    text = page(Scores(about, (section,)))
    for word in ("hospital", "ward", "Ng", "pleural", "host", "\x1b", "\udcff"):
        before, found, after = re.sub(r"base64,[^\"]*", "", text).partition(word)
        assert not found, before[-80:] + found + after[:80]
    for word in ("nih", "masks", "weights.safetensors", "sheet.png", "mini"):
        assert word in text, word
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])  # type: ignore[index]
    held = Image.open(io.BytesIO(data))
    assert set(held.tobytes()) == {7} and set(held.info) == {"Comment"}, "the pixels, and no more"
    assert "\x1b" not in shown(Scores(about, (section,)))


def test_bare_keeps_what_is_no_place() -> None:
    for same in ("AP/PA", "a / b", "sub/scan.png", "see https://arxiv.org/abs/1706.08500", "R@1, n/a", "Größe 5 µm"):
        assert bare(same) == same
    assert bare("reading /a/b/x.png failed (/tmp/y)") == "reading x.png failed (y)"
    assert bare("at \\\\srv\\share\\x now, file:///c/d and ~/e/f") == "at x now, d and f"
    assert bare("\u202egnp.exe") == "\ufffdgnp.exe"


def test_json_of_the_page_is_that_of_the_scores() -> None:
    scores = example()
    found = json.loads(Reader(page(scores)).pre)
    assert found == json.loads(json.dumps(scores.json())), "in full precision"
    broken = Section("pairs", "?", (Row("PSNR (dB)", math.inf, 2, interval=(math.nan, math.inf)),))
    held = json.loads(Reader(page(Scores({}, (broken,)))).pre, parse_constant=lambda word: pytest.fail(word))
    assert held["sections"]["pairs"]["rows"][0]["interval"] == [None, None]


def test_page_can_be_read_by_all() -> None:
    read = Reader(page(example()))
    assert all(image["alt"] for image in read.all("img"))
    assert read.all("svg") and all(svg["role"] == "img" and svg["aria-label"] for svg in read.all("svg"))
    assert all(th["scope"] in ("col", "row", "rowgroup") for th in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table"))
    assert read.all("html")[0]["lang"] == "en" and len(read.all("h1")) == 1
    assert ", lower is better" in read.text and "the nearer to the reference the better" in read.text


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_contrast_is_at_least_four_and_a_half() -> None:
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", found)) for found in re.findall(r":root \{[^}]*\}", page(example()))
    ]
    assert len(themes) == 3, "light, dark, paper"
    assert luminance(themes[0]["card"]) > 0.9 > 0.1 > luminance(themes[1]["card"])
    for colors in themes:
        for ink in ("fg", "muted", "accent", *(f"s{i}" for i in range(charts.SERIES))):
            for paper in ("bg", "card"):
                high, low = sorted((luminance(colors[ink]), luminance(colors[paper])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {paper}"


def coordinates(drawn: str) -> list[float]:
    """Every coordinate of a drawing, which must lie inside its frame."""
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawn).groups())  # type: ignore[union-attr]
    x = [float(v) for v in re.findall(r'\b(?:x1|x2|cx|x)="([^"]*)"', drawn)]
    y = [float(v) for v in re.findall(r'\b(?:y1|y2|cy|y)="([^"]*)"', drawn)]
    for pair in re.findall(r'points="([^"]*)"', drawn):
        x += [float(spot.split(",")[0]) for spot in pair.split()]
        y += [float(spot.split(",")[1]) for spot in pair.split()]
    assert all(math.isfinite(v) for v in (*x, *y)), "coordinates are finite"
    assert all(0 <= v <= width for v in x) and all(0 <= v <= height for v in y), "and inside the frame"
    return x


@pytest.mark.parametrize(
    ("value", "interval", "reference"),
    [
        (2.0, (2.0, 2.0), 1.0),
        (0.0, (0.0, 0.0), 5.0),
        (1.0, (-3.0, 9.0), 2.0),
        (1e300, (1e299, 1e301), 1e-3),
        (1e-300, None, 1e3),
        (1.0, (math.nan, math.inf), 1.0),
        (1.0, (0.9, 1.1), 1.0),
        (3.0, (4.0, 5.0), 1.0),
    ],
)
def test_degenerate_ratios_are_drawn_inside_the_frame(value: float, interval, reference: float) -> None:
    row = Row("kernel distance", value, 3, interval=interval, reference=reference, against="x", better="lower")
    assert coordinates(charts.dots("t", [("one " * 30, row)]))
    assert coordinates(charts.dots("t", [(f"row {i}", replace(row, features=f"{i}" * 9)) for i in range(14)]))
    Reader(page(Scores({}, (Section("fidelity", "?", (row,)),))))


def test_what_has_no_ratio_is_not_drawn() -> None:
    row = Row("kernel distance", -0.1, 3, interval=(-0.2, 0.1), reference=1.0)
    for nothing in (row, replace(row, value=1.0, reference=None), replace(row, value=1.0, reference=0.0),
                    replace(row, value=1e200, reference=1e-200)):  # fmt: skip
        assert charts.dots("t", [("a", nothing)]) == ""
    text = page(Scores({}, (Section("fidelity", "?", (row,)),)))
    assert "<svg" not in text and number(-0.1) in text
    assert (
        charts.dots("t", [])
        == ""
        == charts.curve(Curve("t", "x", "y", {}))
        == charts.curve(Curve("t", "x", "y", {"a": []}))
    )


def test_dots_stand_where_their_ratios_are() -> None:
    values = {0.5: "0.5", 1.0: "1", 2.0: "2"}
    rows = [(f"row {v}", Row("m", v * 3, 9, reference=3.0, interval=(v * 2.4, v * 3.6))) for v in values]
    drawn = charts.dots("t", rows)
    marks = [float(x) for x in re.findall(r'<circle class="f0" cx="([^"]+)"', drawn)]
    ticks = {word: float(x) for x, word in re.findall(r'<text class="mid soft num" x="([^"]+)"[^>]*>([^<]+)<', drawn)}
    assert marks == pytest.approx([ticks[word] for word in values.values()], abs=0.06), "rounded to 0.1"
    assert marks[1] - marks[0] == pytest.approx(marks[2] - marks[1], abs=0.15), "halves and doubles are as far from 1"
    whiskers = [list(map(float, w)) for w in re.findall(r'class="whisker l0" x1="([^"]+)"[^>]* x2="([^"]+)"', drawn)]
    step = (marks[2] - marks[1]) / math.log(2)
    for mark, (low, high) in zip(marks, whiskers, strict=True):
        assert (low - mark, high - mark) == pytest.approx((math.log(0.8) * step, math.log(1.2) * step), abs=0.15)
    beyond = charts.dots("t", [("a", Row("m", 0.0, 9, reference=3.0))])
    assert "<circle" not in beyond and beyond.count("<polygon") == 1, "0 has no place: an arrow at the edge"


@pytest.mark.parametrize(
    "points",
    [
        [(25, 0.5, 0.5, 0.5)],
        [(0, 0, 0, 0)],
        [(1, 2, 2, 2), (1, 2, 2, 2)],
        [(-5, -1e50, -1e60, 1e60), (5, 1e50, 0, 0)],
        [(25, 0.6, math.nan, math.inf), (math.inf, 1, 1, 1), (50, math.nan, 0, 1), (1000, 0.7, 0.6, 0.8)],
        [(i, i % 3, 0, 3) for i in range(1, 300)],
        [(1e-9, 1, 1, 1), (1e9, 1 + 1e-15, 1, 1)],
    ],
)
def test_degenerate_curves_are_drawn_inside_the_frame(points) -> None:
    assert coordinates(charts.curve(Curve("t", "labels", "AUROC", {"a": points})))
    many = {f"line {i} " + "long " * i: points for i in range(13)}
    assert coordinates(charts.curve(Curve("t", "labels", "AUROC", many)))


def test_curves_are_to_scale() -> None:
    points = [(100, 0.75, 0.7, 0.8), (25, 0.5, 0.4, 0.6), (50, 0.7, 0.6, 0.9), (400, 0.9, 0.9, 0.9)]
    drawn = charts.curve(Curve("t", "labels", "AUROC", {"a": points}))
    line = re.search(r'<polyline[^>]*points="([^"]*)"', drawn)[1].split()  # type: ignore[index]
    x, y = zip(*(map(float, spot.split(",")) for spot in line), strict=True)
    assert (x[1] - x[0], x[3] - x[2]) == pytest.approx((x[2] - x[1], 2 * (x[2] - x[1])), abs=0.15), (
        "logarithmic, sorted"
    )
    assert (y[0] - y[1]) / (y[0] - y[3]) == pytest.approx(0.2 / 0.4, abs=0.002), "linear, upwards"
    band = re.search(r'class="band f0" points="([^"]*)"', drawn)[1].split()  # type: ignore[index]
    ends = [float(spot.split(",")[1]) for spot in band]
    assert len(ends) == 8 and ends[0] > y[0] > ends[-1] and ends[3] == y[3] == ends[4], "low below, high above"


@pytest.mark.parametrize("width", [80, 100])
def test_table_fits_the_terminal_and_holds_every_figure(width: int) -> None:
    printed = shown(example(), width)
    assert max(map(len, printed.splitlines())) <= width and "…" not in printed
    lines = [re.sub(r"\s+", " ", line) for line in printed.splitlines()]
    for section in example().sections:
        assert section.question in printed
        for row in section.rows:
            parts = [
                number(row.value),
                bracket(row.interval),
                f"{row.n:,}",
                number(row.reference) if row.reference else "",
            ]
            parts.append(number(row.ratio) if row.ratio else "–")
            found = " ".join(part for part in parts if part)
            assert any(found in line for line in lines), found
    assert [line for line in lines if line.split("  ")[0].startswith(("Fidelity", "Privacy", "Utility"))]
    assert printed.index("Fidelity") < printed.index("Privacy") < printed.index("Utility")
    assert "p7/scan.png: not a readable PNG file (OSError)" in printed and "At equal n." in printed


def test_long_names_break_between_words() -> None:
    row = Row(
        "membership inference by the loss, TPR at 1 % FPR", 0.0000123, 12345, "all", "", (-0.00122, 0.00346), 0.00123
    )
    printed = shown(Scores({}, (Section("privacy", "?", (row,)),)))
    assert max(map(len, printed.splitlines())) <= 80
    assert "[-0.00122, 0.00346] 12,345" in re.sub(r" +", " ", printed)
    words = " ".join(line.split("  ")[0].strip() for line in printed.splitlines())
    assert all(word in words for word in ("membership", "inference", "FPR")), "whole words"
    assert tables(Scores({}, (Section("privacy", "?"),))), "no rows, no table"
    assert "and 2 more" in shown(Scores({"refused": [[f"{i}.png", "broken"] for i in range(7)]}))


def test_rows_stand_below_what_they_can_be_compared_with() -> None:
    rows = [
        Row("AUROC", 0.6, 9, f"{kind} {n}", "imagenet", None, 0.5, against)
        for n in (25, 50)
        for kind, against in (("real", "chance"), ("both", "real alone"))
    ]
    found = [(heading, [label for label, _ in lines]) for heading, lines in blocks([*rows, Row("copies", 1, 9)])]
    assert found == [
        ("All images", ["copies"]),
        ("AUROC, imagenet, beside chance", ["real 25", "real 50"]),
        ("AUROC, imagenet, beside real alone", ["both 25", "both 50"]),
    ]


NAMES = {
    "Frechet distance": "Frechet distance", "kernel distance": "Kernel distance (KID)", "CLIP-MMD": "CLIP-MMD",
    "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage",
    "MS-SSIM within a prompt": "MS-SSIM within a prompt", "image-text similarity": "Image-text similarity",
    "image-text similarity, reports of others": "Similarity with reports of others",
    "retrieval R@5, text to image": "Retrieval, R@k", "AUROC of present against absent": "Present against absent",
    "AUROC of left against right": "Left against right", "AUROC of the judge": "AUROC",
    "nearest-neighbor ratio, 1st percentile": "Nearest-neighbor ratio", "copies": "Copies",
    "planted copies found": "Planted copies found", "false alarms on held-out real images": "False alarms",
    "membership inference by the loss, AUC": "Membership inference, AUC",
    "membership inference by the loss, TPR at 1 % FPR": "Membership inference, TPR",
    "balanced accuracy": "Balanced accuracy", "expected calibration error": "Expected calibration error",
    "AUROC gained": "AUROC gained", "PSNR (dB)": "PSNR", "SSIM": "SSIM", "MS-SSIM": "MS-SSIM", "NRMSE": "NRMSE",
    "RMSE [HU]": "RMSE and MAE",
}  # fmt: skip


def test_glossary_explains_each_metric_that_occurs_and_no_other() -> None:
    for metric, name in NAMES.items():
        (entry,) = glossary([Row(metric, 1.0, 9, better="lower")])
        assert entry.name == name and entry.better == "lower is better" and len(entry.text) > 20
        assert re.search(r"\b(19|20)\d\d\b", entry.paper) or metric == "AUROC gained", f"{metric} has a paper"
    whole = glossary([Row(metric, 1.0, 9) for metric in NAMES])
    assert len(whole) == len(set(NAMES.values())), "one line each"
    (unknown,) = glossary([Row("a new one", 1.0, 9, better="higher")])
    assert unknown.name == "a new one" and unknown.better == "higher is better"
    text = Reader(page(example())).text
    part = text[text.index("Glossary") :]
    assert "arXiv:1706.08500" in part and "Lower is better" in part and "PSNR" not in part


def test_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(example(), tmp_path / "report.html")
    assert path.read_text("utf-8") == page(example()) and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="cannot write into"):
        write_page(example(), tmp_path / "no" / "report.html")
