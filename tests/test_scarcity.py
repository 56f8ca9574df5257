"""The study of scarcity: the same held-out images, ever more training images, and figures that can be compared."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from films import films

from vlgen.adapter import WEIGHTS, read
from vlgen.backbone import Backbone, load
from vlgen.benchmark.scarcity import Outcome, Study, forecast, scarcity, study
from vlgen.benchmark.scarcity.outcomes import _near
from vlgen.cli import main
from vlgen.dataset import Dataset
from vlgen.dataset import load as pixels
from vlgen.features import extractor
from vlgen.generate import illustrate
from vlgen.metrics.distribution import frechet, kernel_distance
from vlgen.modality import modality
from vlgen.train import train
from vlgen.train.outline import finished
from vlgen.train.pictures import Real, collection

SIZES, COUNT = (8, 11), 10
# What the command has options for, so that it finds finished what was made here.
FAST: dict[str, Any] = {"steps": 2, "batch": 4, "rank": 2, "lr": 2e-2, "mixed": "no", "held_out": 0.4}
WORDS = ("--steps", 2, "--batch", 4, "--rank", 2, "--lr", 2e-2, "--mixed", "no", "--held-out", 0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("films") / "set", 40)


def planned(base: Path | Backbone, folder: Path, out: Path, **more: Any) -> Study:
    backbone = base if isinstance(base, Backbone) else load(base)
    return finished(study(backbone, Dataset(folder), out=out, **({"sizes": SIZES, "count": COUNT} | FAST | more)))


def outcomes(todo: Study) -> tuple[list[str], list[Outcome]]:
    """The stages of a study in their order, and what came of it."""
    stages, found = list[str](), list[Outcome]()
    for each in scarcity(todo):
        if isinstance(each, Outcome):
            found.append(each)
        else:
            stages.append(each.stage)
    return list(dict.fromkeys(stages)), found


@pytest.fixture(scope="module")
def done(own: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[str], list[Outcome]]:
    todo = planned(own, folder, tmp_path_factory.mktemp("runs") / "s")
    return todo, *outcomes(todo)


def test_smaller_sets_lie_in_larger_ones_and_patients_stay_together(own: Path, folder: Path, tmp_path: Path) -> None:
    todo = planned(own, folder, tmp_path / "s", sizes=(11, 8, 3))
    assert todo.sizes == (3, 8, 11)
    held_out = len(todo.whole.test)
    assert todo.whole.test == tuple(range(held_out)) and len(todo.whole.rows) == 40
    parts = [todo.part(size).rows for size in todo.sizes]
    for size, rows in zip(todo.sizes, parts, strict=True):
        assert len(rows) == held_out + size and rows == parts[-1][: len(rows)]
        sides = [row.facts["split"] for row in rows]
        assert sides == ["test"] * held_out + ["train"] * size
        inside, outside = ({row.patient for row in part} for part in (rows[held_out:], rows[:held_out]))
        assert not inside & outside
        counts = [sum(row.patient == name for row in rows[held_out:]) for name in inside]
        assert sorted(counts) == [1] * (size % 2) + [2] * (size // 2), "all but the last of a set come whole"
        job = todo.job(size, "adapter")
        assert job.test == todo.whole.test and len(job.train) == size and job.rows == rows
    other = planned(own, folder, tmp_path / "o", seed=1)
    assert {row.file for row in other.part(8).rows[len(other.whole.test) :]} != {
        row.file for row in parts[1][held_out:]
    }


def test_a_column_says_what_is_held_out(own: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = (folder / "metadata.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line.replace("train", "test") for line in lines[1:15]), *lines[15:]]))
    data = Dataset(folder, table=table)
    first, second = (
        finished(
            study(load(own), data, out=tmp_path / "s", sizes=[8], full_lr=lr, **FAST | {"split": "column", **more})
        )
        for lr, more in ((None, {}), (1e-3, {"seed": 1}))
    )
    for todo in (first, second):
        assert {row.file.stem for row in todo.part(8).rows[:14]} == {str(k) for k in range(14)}
        assert len(todo.whole.train) == 26
    assert {row.file for row in first.part(8).rows} != {row.file for row in second.part(8).rows}, "by the seed"
    assert [todo.settings["adapter"].lr for todo in (first, second)] == [2e-2, 2e-2]
    assert [todo.settings["full"].lr for todo in (first, second)] == [None, 1e-3], "5e-5 where nothing is asked for"
    assert first.settings["adapter"].targets == ("wide",) and first.settings["full"].targets == ("full",)


def test_every_number_of_images_has_three_outcomes(done: tuple[Study, list[str], list[Outcome]]) -> None:
    todo, stages, found = done
    assert [(each.size, each.kind) for each in found] == [(n, k) for n in SIZES for k in ("base", "adapter", "full")]
    assert [s for s in stages if s.endswith(": train")] == [f"{k} of {n}: train" for n in SIZES for k in todo.settings]
    names = {"held-out loss", "Frechet distance", "kernel distance", "nearest-neighbor ratio", "copies"}
    for each in found:
        assert names <= set(each.figures), "each is measured"
        far = each.figures["Frechet distance"]
        assert far["low"] < far["value"] < far["high"] and far["n"] == COUNT
        assert far["beside"] == found[0].figures["Frechet distance"]["beside"], "what it is read beside is always one"
        assert each.figures["held-out loss"]["n"] == len(todo.whole.test)
        assert ("membership AUC" in each.figures) == (each.kind != "base" and each.size >= 10)
    bases = [each.figures for each in found if each.kind == "base"]
    for name in ("held-out loss", "Frechet distance", "kernel distance"):
        assert bases[0][name] == bases[1][name], "the base is one, whatever it is compared with"
    for each in found:
        if each.kind != "base":
            contract = read(todo.folder(each.size, each.kind))
            loss = contract.audit["held-out loss"]
            assert loss["before"] == bases[0]["held-out loss"]["value"] != loss["after"]
            assert each.figures["held-out loss"]["value"] == loss["after"] and contract.images == each.size
            if each.size >= 10:
                ratio = contract.audit["nearest-neighbor ratio, median"]
                assert each.figures["nearest-neighbor ratio"]["value"] == pytest.approx(ratio["after"], abs=2e-4)
            assert contract.full == (each.kind == "full") and contract.rank == (0 if contract.full else 2)
    assert not todo.backbone.carried and torch.equal(todo.backbone.probe(), load(todo.backbone.folder).probe())


def test_distances_are_those_of_images_made_and_seen_by_hand(done: tuple[Study, list[str], list[Outcome]]) -> None:
    todo, _, found = done
    seen, job = extractor("imagenet"), todo.whole
    held_out = sorted(job.test, key=lambda k: _chance(k))
    kind = modality("cxr")
    real = torch.cat([seen.see((pixels(job.rows[k], kind, 32) + 1)[None] / 2) for k in held_out])
    texts = [job.captions.texts[held_out[k % len(held_out)]][0] for k in range(COUNT)]
    for each in found[:3]:
        adapter = () if each.kind == "base" else todo.folder(each.size, each.kind)
        backbone = load(todo.backbone.folder, adapter=adapter)
        x = torch.cat([seen.see(i.shown()) for _, i in illustrate(backbone, texts, seeds=range(COUNT), batch=8)])
        # Features of pictures seen one by one or together differ in the last bits of float32; figures have 4 digits.
        assert each.figures["Frechet distance"]["value"] == pytest.approx(frechet(real[:COUNT], x), rel=1e-3)
        near = kernel_distance(real[:COUNT], x)[0]
        assert each.figures["kernel distance"]["value"] == pytest.approx(near, rel=1e-3, abs=1e-3)
    values = [each.figures["Frechet distance"]["value"] for each in found]
    assert len(set(values[:3])) == 3, "base, adapter and full fine-tune make different images"


def _chance(row: int) -> int:
    from vlgen.tensors import counter

    return counter("audit", 0, row)


def test_a_training_is_that_of_vlgen_train_on_a_table_of_the_same_rows(
    own: Path, folder: Path, done: tuple[Study, list[str], list[Outcome]], tmp_path: Path
) -> None:
    todo, _, _ = done
    with open(tmp_path / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "patient", "text", "split"])
        for row in todo.part(8).rows:
            table.writerow([row.file.name, row.patient, row.text, row.facts["split"]])
    settings = FAST | {"split": "column", "modality": "cxr", "targets": "wide", "fresh": False, "audit": 0}
    data = Dataset(folder, table=tmp_path / "table.csv")
    for _ in train(load(own), data, out=tmp_path / "mine", **settings):
        pass
    assert (tmp_path / "mine" / WEIGHTS).read_bytes() == (todo.folder(8, "adapter") / WEIGHTS).read_bytes()


def test_the_base_makes_its_images_once_and_repeated_nothing_is_done(
    own: Path, folder: Path, done: tuple[Study, list[str], list[Outcome]]
) -> None:
    todo, _, found = done
    assert len(list(todo.cache.glob("made-*"))) == 1 + 2 * len(SIZES)
    for own_cache in todo.out.glob("*.training/cache"):
        assert own_cache.resolve() == todo.cache.resolve()
    again = planned(own, folder, todo.out)
    assert [line for line in forecast(again)][-1] == "all 4 trainings are finished: their figures follow"
    stages, same = outcomes(again)
    assert same == found and not any(stage.endswith((": train", ": audit")) for stage in stages)


def test_left_in_the_middle_it_goes_on_to_the_same_end(
    own: Path, folder: Path, done: tuple[Study, list[str], list[Outcome]], tmp_path: Path
) -> None:
    whole, _, _ = done
    shutil.copytree(whole.out, tmp_path / "s", symlinks=True)
    for name in ("full-8", "full-8.training"):
        shutil.rmtree(tmp_path / "s" / name)
    todo = planned(own, folder, tmp_path / "s", sizes=[8])
    bare = todo.backbone.probe()
    walk = scarcity(todo)
    for each in walk:
        if not isinstance(each, Outcome) and each.stage == "full of 8: train" and each.step == 1:
            break
    walk.close()  # type: ignore[attr-defined]
    assert torch.equal(todo.backbone.probe(), bare) and not todo.backbone.carried
    assert todo.finished(8, "adapter") and not todo.finished(8, "full")
    assert "for 1 of 2 trainings" in [*forecast(todo)][-1]
    stages, _ = outcomes(planned(own, folder, tmp_path / "s", sizes=[8]))
    assert "adapter of 8: train" not in stages and "full of 8: train" in stages
    file = read(whole.folder(8, "full")).file
    assert (todo.folder(8, "full") / file).read_bytes() == (whole.folder(8, "full") / file).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"targets": "full"}, "targets full: the study trains that besides"),
        ({"count": 9}, "count is 9: give at least 10"),
        ({"sizes": (8, 41)}, "a study on 41 wants as many"),
        ({"sizes": ()}, r"sizes are \[\]"),
        ({"sizes": (0, 8)}, "give numbers of training images"),
        ({"held_out": 0.0}, "0 held out"),
        ({"colour": 1}, "unknown setting 'colour'"),
        ({"full_lr": 2.0}, "lr is 2.0"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    own: Path, folder: Path, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        planned(own, folder, tmp_path / "s", **more)
    assert not list(tmp_path.glob("s/*-*")), "nothing was trained"


def test_copies_are_counted_by_the_held_out_images_own_distances() -> None:
    """Training images at 0, 10, 20 ... on a line, 20 held-out ones 1 to 3 beside them: nearer than 1 is a copy."""
    train = torch.arange(12.0)[:, None] * 10 * torch.eye(1, 4)
    held_out = (torch.arange(20.0)[:, None] % 12 * 10 + 1 + torch.arange(20.0)[:, None] / 10) * torch.eye(1, 4)
    near = Real(held_out, train, collection([], [], [], "cxr"))
    x = torch.cat([train[:3] + 0.5, train[:4] + 4, held_out[:2]])
    x[:3, 1:] = 0
    found = _near(x, near, 0)
    assert found["copies"] == {"value": 3, "n": 9, "beside": round(9 / 21, 2)}, (
        "1 in 21: twenty held-out images tell no 1 %"
    )
    assert _near(None, near, 0) == {} and "copies" not in _near(x, Real(train, train, near.known), 0)
    assert _near(train[:5], near, 0)["nearest-neighbor ratio"]["value"] == 0 and found["copies"]["beside"] < 0.5


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def test_the_command_prints_a_table_and_keeps_the_figures(
    folder: Path,
    done: tuple[Study, list[str], list[Outcome]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    todo, _, outcomes = done
    words = [
        "benchmark",
        "scarcity",
        folder,
        "--model",
        todo.backbone.folder,
        "--sizes",
        "8,11",
        "--count",
        COUNT,
        *WORDS,
    ]
    assert call(*words, "--out", tmp_path / "new", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "time: about" in said and "for 4 of 4 trainings" in said and "lr 5e-05" in said and "lr 0.02, rank 2" in said
    assert not list((tmp_path / "new").glob("*-8"))
    assert call(*words, "--out", todo.out, "--json", tmp_path / "f.json") == 0
    said = capsys.readouterr().out
    table = [line for line in said.splitlines() if line.split()[:1] in (["8"], ["11"])]
    assert [line.split()[1] for line in table] == ["base", "adapter", "full"] * 2
    for line, each in zip(table, outcomes, strict=True):
        figures = each.figures
        assert f" {figures['held-out loss']['value']:.4f} " in line and f" {figures['copies']['value']} " in line
        assert f" {figures['Frechet distance']['value']:.1f} [{figures['Frechet distance']['low']:.1f}, " in line
        assert line.endswith("]") == ("membership AUC" in figures), "- where nothing was measured"
    assert "10 images each, seeds 0 to 9, of held-out reports; seed 0" in said and "at n 10, beside" in said
    found = json.loads((tmp_path / "f.json").read_text())
    assert [row["figures"] for row in found["rows"]] == [each.figures for each in outcomes]
    assert found["settings"]["full"]["targets"] == ["full"] and found["held_out"] == len(todo.whole.test)
    for text in (said, (tmp_path / "f.json").read_text()):
        assert "acute" not in text and '"p1' not in text, "no report, no patient"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sizes", "25,many"), "sizes '25,many'"),
        (("--targets", "full"), "targets full"),
        (("--split", "sideways"), "split is 'sideways'"),
        (("--table", "none.csv"), "the table none.csv is no file"),
    ],
)
def test_no_is_one_sentence(
    own: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert call("benchmark", "scarcity", folder, "--out", tmp_path / "s", "--model", own, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("vlgen: ") and said in error and error.count("\n") == 1


def test_a_word_that_names_no_study_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("benchmark", "magic") == 2 and "unknown benchmark 'magic'" in capsys.readouterr().err
    assert call("benchmark", "time", "magic") == 2 and "unknown benchmark 'magic'" in capsys.readouterr().err
    assert call("benchmark", "--help") == 0 and "scarcity" in capsys.readouterr().out
