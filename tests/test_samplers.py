"""Samplers on a model: levels that are searched and kept, pictures side by side, error by cost, and their commands."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

import vlgen
import vlgen.cli.samplers  # adds its commands
from vlgen.backbone import Backbone
from vlgen.cli import main
from vlgen.cli.samplers import names_of, numbers_of
from vlgen.modality import MODALITIES
from vlgen.plan import again, plan
from vlgen.report import Report
from vlgen.samplers import Point, compare, grid, plot, quality, search_levels, shelve, starts
from vlgen.samplers.starts import reports
from vlgen.schedules import FILE, Stored, choose, home, kept, miss, stored
from vlgen.solvers import SOLVERS, solver

TEXT = "AP chest radiograph. Large left pleural effusion."
QUICK = {"images": 2, "fine": 8, "parts": 2, "sweeps": 1}


@pytest.fixture
def folder(own: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to write beside."""
    return Path(shutil.copytree(own, tmp_path / "model"))


@pytest.fixture(scope="module")
def backbone(own: Path) -> Backbone:
    return vlgen.load(own)


def entry(**changed: object) -> Stored:
    given = {"solver": "euler", "kernel": "gaussian", "guidance": (2.0, 0.0, float("inf"), 0.0)}
    return Stored(**given | {"sigmas": (80.0, 3.0, 0.5, 0.0), "made": {"seed": 0}} | changed)  # type: ignore[arg-type]


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


# What is kept.


def test_levels_come_back_as_they_were_kept(tmp_path: Path) -> None:
    first, second = entry(), entry(solver="ipndm:3,last=2", sigmas=(80.0, 0.1, 0.0), kernel="pfgmpp:128")
    (tmp_path / FILE).write_text(kept([], [second, first]))
    assert stored(tmp_path) == stored(tmp_path / FILE) == [first, second]
    better = entry(sigmas=(80.0, 2.0, 0.25, 0.0))
    assert (better.steps, better.levels.dtype) == (3, torch.float32)
    (tmp_path / FILE).write_text(kept(stored(tmp_path), [better]))
    assert stored(tmp_path) == [better, second], "the same settings once, the rest as before"
    assert stored(tmp_path / "nowhere") == stored(None) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"schedules": [{}]}', '{"schedules": 3}']
    + [
        kept([], [entry()]).replace(a, b)
        for a, b in [("0.5", "5.5"), ("80.0", '"x"'), ("80.0", "NaN"), ('"euler",', '"euler",3'), ("0.0\n", "0.1\n")]
    ],
)
def test_files_that_are_not_levels_are_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match="search them again"):
        stored(tmp_path)


def test_an_adapter_has_levels_of_its_own() -> None:
    def on(*acting: tuple[str, float]) -> Path | None:
        return home(Path("model"), [SimpleNamespace(folder=folder, scale=scale) for folder, scale in acting])

    assert on() == on(("a", 0.0)) == Path("model")
    assert on(("a", 1.0)) == on(("a", 1.0), ("b", 0.0)) == Path("a")
    assert on(("a", 0.8)) is on(("a", 1.0), ("b", 1.0)) is on(("", 1.0)) is None


def test_what_is_asked_goes_before_what_was_searched_and_that_before_the_models_own() -> None:
    table, own = torch.linspace(0.01, 100, 50), {"schedule": "karras", "sigma_min": 0.02, "sigma_max": 80.0}
    name, sigmas = choose(None, 3, table, own, [entry()])
    assert name == "searched" and sigmas.tolist() == [80.0, 3.0, 0.5, 0.0]
    assert choose("searched", 3, table, own, [entry()])[0] == "searched"
    assert choose("uniform", 3, table, own, [entry()])[0] == "uniform"
    assert choose(None, 3, table, own, [])[0] == "karras"
    with pytest.raises(ValueError, match=r"no levels were searched for 3 steps.*vlgen schedule search"):
        choose("searched", 3, table, own, [])
    with pytest.raises(ValueError, match="leaves the trained range"):
        choose(None, 3, table / 2, own, [entry()])


def test_generate_takes_searched_levels_for_these_very_settings_alone(folder: Path, tmp_path: Path) -> None:
    (folder / FILE).write_text(kept([], [entry()]))
    backbone = vlgen.load(folder)
    todo = plan(backbone, TEXT, solver_name="euler", steps=3)
    assert todo.schedule == "searched" and todo.sigmas.tolist() == [80.0, 3.0, 0.5, 0.0]
    for whose, taken in ((backbone.fingerprint, "searched"), ("of other weights", "karras")):
        (folder / FILE).write_text(kept([], [entry(made={"model_fingerprint": whose})]))
        assert plan(backbone, TEXT, solver_name="euler", steps=3).schedule == taken
    (folder / FILE).write_text(kept([], [entry()]))
    for changed in ({"steps": 4}, {"solver_name": "heun"}, {"guidance_scale": 1.5}, {"kernel_name": "pfgmpp:128"}):
        settings = {"solver_name": "euler", "steps": 3} | changed
        assert plan(backbone, TEXT, **settings).schedule == "karras"  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no levels were searched"):
            plan(backbone, TEXT, schedule_name="searched", **settings)  # type: ignore[arg-type]
    images = vlgen.generate(backbone, TEXT, seeds=[1], solver="euler", steps=3)
    [path] = vlgen.write(images, tmp_path / "out")
    record = vlgen.info(path)
    assert record["sigmas"] == [80.0, 3.0, 0.5, 0.0] and "--schedule searched" in again(record)
    other = vlgen.generate(backbone, TEXT, seeds=[1], solver="euler", steps=3, schedule="karras")
    assert not torch.equal(images[0], other[0]) and "sigmas" not in other.provenance[0]


# What is searched.


def test_starts_are_those_of_their_words(backbone: Backbone) -> None:
    a, b, c = (starts(backbone, 3, part=part, seed=seed) for part, seed in (("x", 0), ("x", 0), ("y", 0)))
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x) and len(set(a.seeds)) == 3
    assert torch.equal(a.x, a.plan.kernel.noise(backbone.shape, float(a.plan.sigmas[0]), a.seeds))
    assert float(a.plan.sigmas[0]) == 80.0 and a.plan.guidance_scale == 2.0
    with torch.inference_mode():
        one, other = a.denoise(a.x, torch.tensor(1.0)), c.denoise(a.x, torch.tensor(1.0))
    assert not torch.allclose(one, other), "other texts"
    with pytest.raises(ValueError, match="at least 1"):
        starts(backbone, 0, part="x")


def test_composed_texts_are_of_the_models_modalities_and_differ(backbone: Backbone) -> None:
    texts = reports(backbone, 16, seed=3)
    assert texts == reports(backbone, 16, seed=3) != reports(backbone, 16, seed=4) and len(set(texts)) > 12
    named = [Report.parse(text).modality for text in texts]
    assert {"cxr", "mri", "us", "ct"} <= set(named) <= {*MODALITIES, ""}


def test_searched_levels_come_closer_than_the_models_own_schedule(folder: Path) -> None:
    backbone = vlgen.load(folder)
    found = list(search_levels(backbone, [4, 3], solver_name="ipndm:3,last=2", **QUICK))  # type: ignore[arg-type]
    assert [each.levels.steps for each in found] == [3, 4]
    seen = starts(backbone, 2, part="search", solver_name="ipndm:3,last=2")
    end = seen.teacher(15)
    for each in found:
        levels, own = each.levels.levels, plan(backbone, TEXT, steps=each.levels.steps).sigmas
        assert levels[0] == own[0] and levels[-2] >= own[-2] * 0.999
        walk = solver(each.levels.solver)
        with torch.inference_mode():
            assert miss(seen.denoise, seen.x, levels, walk, end) < miss(seen.denoise, seen.x, own, walk, end)
        assert each.schedule == "karras" and 0 < each.miss < 10 and 0 < each.named < 10
        assert each.levels.guidance == (2.0, 0.0, float("inf"), 0.0)
    assert shelve(backbone, found) == folder / FILE and stored(folder) == [each.levels for each in found]
    assert plan(backbone, TEXT, steps=4, solver_name="ipndm:3,last=2").sigmas.tolist() == list(found[1].levels.sigmas)
    again_found = next(search_levels(backbone, [3], solver_name="ipndm:3,last=2", **QUICK))  # type: ignore[arg-type]
    assert again_found.levels.sigmas == found[0].levels.sigmas, "what is kept does not move what is searched"


def test_the_search_asks_the_denoiser_that_will_run(folder: Path) -> None:
    backbone = vlgen.load(folder)
    (one,), (other,) = (
        search_levels(backbone, [3], solver_name="euler", guidance_scale=scale, **QUICK)  # type: ignore[arg-type]
        for scale in (1.0, 6.0)
    )
    assert (one.levels.guidance[0], other.levels.guidance[0]) == (1.0, 6.0)
    assert one.miss != other.miss and one.named != other.named


@pytest.mark.parametrize(
    ("name", "why"), [("ddpm", "draws noise"), ("heun:churn=1", "draws"), ("rk45", "its own steps")]
)
def test_solvers_whose_walks_do_not_repeat_are_refused(backbone: Backbone, name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{why}.*such as ipndm"):
        next(search_levels(backbone, [3], solver_name=name, **QUICK))  # type: ignore[arg-type]


def test_levels_of_no_folder_want_a_file(folder: Path, tmp_path: Path) -> None:
    backbone = vlgen.load(folder)
    found = list(search_levels(backbone, [2], solver_name="euler", **QUICK))  # type: ignore[arg-type]
    backbone.carried = {"a": SimpleNamespace(folder="a", scale=0.5)}
    with pytest.raises(ValueError, match="name a file with --out"):
        shelve(backbone, found)
    assert stored(shelve(backbone, found, tmp_path / "mine.json")) == [found[0].levels]


# Side by side.


def test_a_comparison_starts_every_image_from_the_same_noise(backbone: Backbone, tmp_path: Path) -> None:
    cells = list(compare(backbone, TEXT, ["euler", "ddim", "heun"], [2, 3], seed=5))
    assert [(cell.solver, cell.steps) for cell in cells] == [(s, n) for s in ("euler", "ddim", "heun") for n in (2, 3)]
    assert torch.equal(cells[0].image.pixels, cells[2].image.pixels), "euler is ddim"
    assert not torch.equal(cells[0].image.pixels, cells[4].image.pixels)
    alone = vlgen.generate(backbone, TEXT, seeds=[5], solver="heun", steps=3)
    assert torch.equal(alone.pixels, cells[5].image.pixels)
    path = grid(cells, tmp_path, size=32)
    record = vlgen.info(path)
    assert record["synthetic"] is True and path.name.startswith("cxr_compare_5_")
    assert [(r["solver"], r["steps"], r["seed"]) for r in record["sheet"]] == [(c.solver, c.steps, 5) for c in cells]
    assert "effusion" not in path.read_bytes().decode("latin1").lower()
    assert grid(cells, tmp_path, size=32) == path, "the same sheet has the same name"


def test_a_sheet_shows_each_image_in_its_place(backbone: Backbone, tmp_path: Path) -> None:
    from PIL import Image

    cells = list(compare(backbone, TEXT, ["euler", "heun"], [1, 4]))
    with Image.open(grid(cells, tmp_path, size=32)) as whole:
        assert whole.mode == "L"
        width, height = whole.size
        assert width == 120 + 4 + 2 * 36 and height == 15 + 4 + 2 * 36
        for k, cell in enumerate(cells):
            left, top = 124 + (k % 2) * 36, 19 + (k // 2) * 36
            shown = (cell.image.shown()[0, 0] * 255).round().int()
            part = whole.crop((left, top, left + 32, top + 32))
            assert list(part.getdata()) == shown.flatten().tolist()


def test_cells_that_make_no_rows_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    cells = list(compare(backbone, TEXT, ["euler", "ddim"], [1, 2]))
    for wrong in (cells[:3], [], [cells[0], cells[1], cells[3], cells[2]]):
        with pytest.raises(ValueError, match="fill rows"):
            grid(wrong, tmp_path)
    for names, steps in (([], [1]), (["euler"], [])):
        with pytest.raises(ValueError, match="at least one solver"):
            next(compare(backbone, TEXT, names, steps))
    with pytest.raises(ValueError, match="magic"):  # before anything is made
        next(compare(backbone, TEXT, ["euler", "magic"], [1]))


# Error by cost.


def test_quality_counts_what_was_asked_and_keeps_to_the_budget(backbone: Backbone) -> None:
    points = list(quality(backbone, budgets=(3, 12), images=1, teacher=40))
    assert {p.solver.partition(":")[0] for p in points} == set(SOLVERS)
    for point in points:
        chosen = solver(point.solver)
        assert point.stochastic == chosen.stochastic and point.distance >= 0
        if not chosen.adaptive:
            assert point.evaluations == chosen.nfe(point.steps) <= 12 < chosen.nfe(point.steps + 1) or (
                point.evaluations <= 3 < chosen.nfe(point.steps + 1)
            )
    by = {(p.solver, p.evaluations): p.distance for p in points}
    assert by["euler", 12] == by["ddim", 12] < by["euler", 3]
    begun, todo = starts(backbone, 1, part="quality"), plan(backbone, TEXT, steps=12)
    with torch.inference_mode():
        by_hand = miss(begun.denoise, begun.x, todo.sigmas, solver("euler"), begun.teacher(40))
    assert by["euler", 12] == by_hand
    under = list(
        quality(backbone, names=["euler", "ddpm"], budgets=(3,), images=1, teacher=2, kernel_name="pfgmpp:128")
    )
    assert [p.solver for p in under] == ["euler"], "a solver that draws noise is left out under PFGM++"


def test_the_plot_draws_every_solver_and_escapes_its_name() -> None:
    points = [Point("euler", n, n, 1 / n, False, "karras") for n in (40, 5, 10)]
    points += [Point("a<b&c", n, n, 2 / n, True, "karras") for n in (5, 10)]
    points += [Point(f"rk45:{tol}", 9, n, 1 / n**2, False, "") for tol, n in ((0.1, 7), (0.01, 13))]
    points += [Point("exact", 5, 5, 0.0, False, "karras"), Point("lost", 5, 5, float("nan"), False, "karras")]
    root = ElementTree.fromstring(plot(points, "T<>"))
    space = "{http://www.w3.org/2000/svg}"
    words = [node.text for node in root.iter(f"{space}text")]
    assert {"T<>", "euler", "a<b&c", "rk45"} <= set(words) and not {"exact", "lost"} & set(words)
    lines = list(root.iter(f"{space}polyline"))
    assert len(lines) == 3 and [("stroke-dasharray" in line.attrib) for line in lines] == [False, True, False]
    across = [float(spot.split(",")[0]) for spot in lines[0].attrib["points"].split()]
    assert across == sorted(across) and len(list(root.iter(f"{space}circle"))) == 7
    with pytest.raises(ValueError, match="no finite distance"):
        plot(points[-2:], "")
    crowd = [Point(f"solver {k}", 5, 5, 0.5 + k / 1e4, False, "karras") for k in range(18)]
    texts = ElementTree.fromstring(plot(crowd, "")).iter(f"{space}text")
    places = [float(node.attrib["y"]) for node in texts if str(node.text).startswith("solver")]
    assert all(b - a > 13.9 for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
    assert min(places) > 30 and max(places) < 440


# Commands.


def test_samplers_lists_every_solver(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("samplers", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SOLVERS) and rows[0]["order"] == 1
    assert call("samplers") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SOLVERS) and "heun:churn=40" in said


def test_lists_as_people_write_them() -> None:
    assert names_of("heun, ipndm:3,last=2,unipc") == ["heun", "ipndm:3,last=2", "unipc"]
    assert names_of("heun:churn=1,noise=1.01,ddim:eta=0.5") == ["heun:churn=1,noise=1.01", "ddim:eta=0.5"]
    assert numbers_of("5, 10,5,20") == [5, 10, 20]
    for wrong in ("", ",", " "):
        with pytest.raises(ValueError, match="names with commas"):
            names_of(wrong)
    for wrong in ("", "5,", "0", "five", "1001", "-3", "2.5"):
        with pytest.raises(ValueError, match="whole numbers from 1 to 1000"):
            numbers_of(wrong)


def test_the_compare_command_writes_one_marked_sheet(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", TEXT, "--solvers", "euler,ipndm:3,last=2", "--steps", "2,3", "--seed", "1", "--size", "32"]
    assert call(*words, "--model", str(own), "--out", str(tmp_path)) == 0
    [path] = tmp_path.glob("*.png")
    assert str(path) in capsys.readouterr().out.replace("\n", "") and len(vlgen.info(path)["sheet"]) == 4
    assert call("compare", TEXT, "--solvers", "magic", "--model", str(own), "--out", str(tmp_path)) == 2
    assert "magic" in capsys.readouterr().err


def test_the_search_command_keeps_what_generate_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["schedule", "search", "--model", str(folder), "--solver", "euler", "--fine", "5"]
    words += ["--images", "1", "--sweeps", "0"]
    assert call(*words, "--steps", "2,3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(folder / FILE) and [row["steps"] for row in said["schedules"]] == [2, 3]
    assert [list(each.sigmas) for each in stored(folder)] == [row["sigmas"] for row in said["schedules"]]
    assert call(*words, "--steps", "3", "--guidance", "1") == 0
    said = capsys.readouterr().out
    assert "3 steps of euler: distance" in said and "by karras" in said and len(stored(folder)) == 3
    assert (
        call("generate", TEXT, "--model", str(folder), "--solver", "euler", "--steps", "2", "--dry-run", "--json") == 0
    )
    assert json.loads(capsys.readouterr().out)["schedule"] == "searched"
    assert call(*words, "--solver", "ddpm") == 2 and "draws noise" in capsys.readouterr().err


def test_levels_that_are_no_better_are_not_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vlgen.samplers as samplers

    search = samplers.search_levels

    def worse(*given: object, **settings: object) -> Iterator[object]:
        for each in search(*given, **settings):  # type: ignore[arg-type]
            yield replace(each, miss=each.named if each.levels.steps == 2 else each.named / 2)

    monkeypatch.setattr(samplers, "search_levels", worse)
    words = ["schedule", "search", "--model", str(folder), "--solver", "euler", "--guidance", "1.7", "--fine", "5"]
    assert call(*words, "--images", "1", "--sweeps", "0", "--steps", "2,3") == 0
    assert "not kept" in capsys.readouterr().out
    assert [each.steps for each in stored(folder) if each.guidance[0] == 1.7] == [3]


def test_the_benchmark_of_samplers_prints_and_plots(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vlgen.samplers.quality"], "BUDGETS", (3,))
    out = tmp_path / "made" / "samplers.svg"
    assert call("benchmark", "samplers", "--model", str(own), "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("euler", "draws noise", "rk45", str(out)))
    assert ElementTree.fromstring(out.read_text()).tag.endswith("svg")
    assert call("benchmark", "magic") == 2 and "schedules" in capsys.readouterr().err
