"""The whole evaluation: folders in, scores, JSON and a page out; and what it says to a user's mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import call

from vlgen.evaluate import evaluate, private_cache
from vlgen.evaluate.scores import SCHEMA


def folder(root: Path, name: str, n: int, seed: int, low: int = 0) -> Path:
    """Discs of random places: half with a bright base, which is the effusion of their reports."""
    place = root / name
    place.mkdir()
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    with open(place / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "patient", "text"])
        for k in range(n):
            y, x, r = chance.uniform(16, 48), chance.uniform(16, 48), chance.uniform(6, 14)
            picture = 60 + 90 * ((rows - y) ** 2 + (columns - x) ** 2 < r**2) + chance.normal(0, 8, (64, 64)) + low
            if k % 2:
                picture[48:] += 90
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / f"{k}.png")
            effusion = "Pleural effusion." if k % 2 else "No pleural effusion."
            writer.writerow([f"{k}.png", f"{name}{k // 2}", f"PA chest radiograph. {effusion}"])
    return place


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluate")
    found = {
        "real": folder(root, "real", 120, 0),
        "synthetic": folder(root, "synthetic", 60, 1),
        "train": folder(root, "train", 120, 2),
        "far": folder(root, "far", 60, 3, low=80),
    }
    (found["synthetic"] / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return found


def test_the_command_answers_and_writes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scores, page = tmp_path / "scores.json", tmp_path / "deep" / "report.html"
    command = ["evaluate", folders["real"], folders["synthetic"], "--train", folders["train"], "--features", "mini",
               "--json", scores, "--html", page]  # fmt: skip
    assert call(*command) == 0
    out, err = capsys.readouterr()
    assert "Frechet distance" in out and "two real halves" in out and str(scores) in out and not err
    found = json.loads(scores.read_text())
    assert found["schema"] == SCHEMA and list(found["sections"]) == ["fidelity", "alignment", "privacy"]
    assert [name for name, _ in found["about"]["folders"]["synthetic"]["refused"]] == ["torn.png"]
    assert found["about"]["folders"]["synthetic"]["n"] == 60
    rows = [row for section in found["sections"].values() for row in section["rows"]]
    assert rows and all(row["n"] > 0 and np.isfinite(row["value"]) for row in rows)
    near = next(r for r in rows if r["metric"] == "Frechet distance" and r["group"] == "all")
    assert near["ratio"] == pytest.approx(1, abs=0.6), "both folders come from one distribution"
    judge = [r for r in rows if r["metric"] == "AUROC of the judge"]
    assert judge and all(r["value"] > 0.9 and r["reference"] > 0.9 for r in judge), "the bright base is easily seen"
    assert "torn.png" in page.read_text() and str(folders["real"].parent) not in page.read_text()
    assert private_cache().is_relative_to(tmp_path) and len(list(private_cache().iterdir())) == 3
    assert call(*command[:3], "--features", "mini", "--json", "-") == 0
    alone, _ = capsys.readouterr()
    assert json.loads(alone)["schema"] == SCHEMA


def test_same_seed_same_figures_and_far_is_farther(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = {"features": ["mini"], "what": ["fidelity"], "cache": tmp_path}
    once = evaluate(folders["real"], folders["synthetic"], **settings)
    again = evaluate(folders["real"], folders["synthetic"], **settings)
    assert once.json() == again.json()
    few = evaluate(folders["real"], folders["synthetic"], most=20, **settings).section("fidelity").rows[0]
    assert few.n == 20 and few.reference > once.section("fidelity").rows[0].reference, "fewer images, larger distance"
    far = evaluate(folders["real"], folders["far"], **settings)
    near_row, far_row = (s.section("fidelity").rows[0] for s in (once, far))
    assert far_row.value > 5 * near_row.value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{real}"], "1 folders were given"),
        (["{real}", "{synthetic}", "--what", "beauty"], "unknown question 'beauty'"),
        (["{real}", "{synthetic}", "--what", "privacy"], "give their folder, --train"),
        (["{real}", "{synthetic}", "--features", "guess"], "unknown features 'guess'"),
        (["{real}", "{synthetic}", "--features", "mini", "--features", "mini"], "two extractors are called"),
        (["{real}", "/no/such/folder", "--features", "mini"], "is not a folder"),
        (["{real}:patient=real0", "{synthetic}", "--features", "mini"], "at least 20 real"),
        (["{real}", "{synthetic}", "--most", "5"], "most is 5"),
        (["{real}", "{synthetic}", "--pairs", "--window", "wide"], "is not LOW,HIGH"),
        (["{real}", "{far}", "--pairs", "--window", "5,1"], "is empty"),
    ],
)
def test_no_is_one_sentence(
    folders: dict[str, Path], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", *(argument.format(**folders) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_pairs_from_the_command(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "reconstructed"
    other.mkdir()
    for k in range(12):
        x = np.asarray(Image.open(folders["real"] / f"{k}.png")).astype(int)
        Image.fromarray((x + 5).clip(0, 255).astype(np.uint8)).save(other / f"{k}.png")
    assert call("evaluate", "--pairs", folders["real"], other, "--json", tmp_path / "pairs.json") == 0
    assert "PSNR" in capsys.readouterr().out
    rows = json.loads((tmp_path / "pairs.json").read_text())["sections"]["pairs"]["rows"]
    found = {row["metric"]: row for row in rows}
    assert found["PSNR (dB)"]["n"] == 12
    assert found["PSNR (dB)"]["value"] == pytest.approx(20 * np.log10(255 / 5), abs=0.05)
