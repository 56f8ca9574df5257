"""Adapters that ship: each holds its contract on the bundled model, and goes by its name wherever vlgen lies."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from adapted import FACTS, rewrite, stored

import vlgen
from vlgen.adapter import CONTRACT, check, find, listing, read
from vlgen.adapter import shelf as shelf_module
from vlgen.adapter.card import CARD
from vlgen.adapter.shelf import names
from vlgen.backbone import Backbone, load
from vlgen.cli import main
from vlgen.folder import MINI, beside

ROOT = Path(vlgen.__file__).parents[1]
SHIPPED = sorted(path.parent for path in beside("adapters").glob(f"*/{CONTRACT}"))
AUDIT = {"held-out loss": {"before": 0.31, "after": 0.24, "n": 68}, "in words": "The loss fell."}
MOST, MOST_DISTILLED = 2 * 2**20, 2_500_000  # bytes of weights
SCHEDULES = "schedules.json"


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load()


def amiss(folder: Path, backbone: Backbone) -> list[str]:
    """What keeps an adapter from being shipped, a sentence each."""
    said = check(folder, backbone)
    contract = read(folder)
    size = (folder / contract.file).stat().st_size
    if size > (MOST_DISTILLED if contract.distilled else MOST):
        said.append(f"its weights have {size / 2**20:.2f} MiB")
    said += [f"its contract names no {name}" for name in ("task", "licence", "steps") if not getattr(contract, name)]
    if not contract.audit.get("in words"):
        said.append("its audit says nothing in words")
    if contract.sha256 not in (folder / CARD).read_text(encoding="utf-8"):
        said.append("its card is of other weights")
    others = {file.name for file in folder.rglob("*") if file.is_file()} - {CONTRACT, CARD, contract.file, SCHEDULES}
    return said + [f"{name} lies in its folder" for name in sorted(others)]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_what_ships_holds_its_contract_on_mini(folder: Path, mini: Backbone) -> None:
    assert amiss(folder, mini) == []


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_what_ships_is_found_by_its_name_and_acts(
    folder: Path, mini: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(folder.name).resolve() == folder.resolve() and folder.name in names()
    [row] = [row for row in listing() if row["name"] == folder.name]
    assert not row["refused"] and row["base"] == "mini" and row["trained"]
    acting, silent = load(adapter=folder.name), load(adapter=f"{folder.name}:0")
    assert acting.adapters == {folder.name: 1.0}, "files say its name, not where it lies on this machine"
    assert not torch.equal(acting.probe(), mini.probe()) and torch.equal(silent.probe(), mini.probe())


def test_an_installed_vlgen_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel puts adapters/ where `beside` looks first: next to the package's own files."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        targets = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]
    assert (
        targets["wheel"]["force-include"]["adapters"] == "vlgen/adapters" and "adapters" in targets["sdist"]["include"]
    )
    site = tmp_path / "site-packages"
    for source, target in targets["wheel"]["force-include"].items():
        shutil.copytree(ROOT / source, site / target)
    monkeypatch.setattr("vlgen.folder.__file__", str(site / "vlgen" / "folder.py"))
    monkeypatch.chdir(tmp_path)
    assert beside("adapters") == site / "vlgen" / "adapters"
    assert {row["name"] for row in listing()} == {folder.name for folder in SHIPPED} == set(names())
    assert all(find(folder.name) == site / "vlgen" / "adapters" / folder.name for folder in SHIPPED)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of mini as it would ship."""
    folder = tmp_path_factory.mktemp("shelf") / "us-one"
    stored(MINI, folder, name="us-one", facts={**FACTS, "modality": "us", "audit": AUDIT})
    return folder


def test_what_must_not_ship_is_found(one: Path, mini: Backbone, tmp_path: Path) -> None:
    assert amiss(one, mini) == []
    for number, (harm, said) in enumerate(
        (
            ({"task": ""}, "names no task"),
            ({"licence": ""}, "names no licence"),
            ({"steps": 0}, "names no steps"),
            ({"audit": {}}, "holds no audit"),
            ({"audit": {"images": 3}}, "nothing in words"),
            ({"sha256": "0" * 64}, "sha256 differs"),
            ({"base_fingerprint": "0" * 64}, "was made for"),
        )
    ):
        folder = shutil.copytree(one, tmp_path / str(number))
        rewrite(folder, **harm)
        assert any(said in fault for fault in amiss(folder, mini)), said
    folder = shutil.copytree(one, tmp_path / "more")
    (folder / "log.csv").write_text("step\n1\n")
    assert amiss(folder, mini) == ["log.csv lies in its folder"]
    stored(MINI, tmp_path / "large", targets="wide", rank=16, facts={**FACTS, "modality": "us", "audit": AUDIT})
    [fault] = amiss(tmp_path / "large", mini)
    assert fault.startswith("its weights have 3.")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def test_an_unknown_name_lists_those_there_are(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of ./adapters and of those that came with vlgen, each once."""
    monkeypatch.setattr(shelf_module, "beside", lambda name: tmp_path / "site" / name)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert call("generate", "Chest radiograph.", "--model", own, "--adapter", "us-mas:0.5", "--out", "o") == 2
    assert "unknown adapter 'us-mas'" in (said := capsys.readouterr().err) and "or a name" not in said
    for place in (tmp_path / "site" / "adapters" / "us-mass", here / "adapters" / "us-mass", here / "adapters" / "a"):
        stored(own, place)
    assert names() == ["a", "us-mass"]
    for words in (("generate", "X.", "--out", "o"), ("sheet", "X.", "--out", "s.png")):
        assert call(*words, "--model", own, "--adapter", "us-mas") == 2
        said = capsys.readouterr().err
        assert said == "vlgen: unknown adapter 'us-mas': give a folder with an adapter.json, or a name: a, us-mass\n"
    assert not (here / "s.png").exists() and not (here / "o").exists()


def test_a_sheet_of_adapters_says_so(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        stored(own, tmp_path / "adapters" / name, name=name, seed=seed)
    words = ("sheet", "AP chest radiograph.", "Brain MRI.", "--model", own, "--seeds", "0-1", "--size", 32)
    assert call(*words, "--out", "plain.png") == 0
    assert call(*words, "--out", "both.png", "--adapter", "a:0.5", "--adapter", "adapters/b") == 0
    assert call(*words, "--out", "zero.png", "--adapter", "a:0") == 0
    plain, both = vlgen.info("plain.png"), vlgen.info("both.png")
    assert plain["adapters"] == {} and plain["synthetic"] and both["synthetic"] and both["model"] == "tiny"
    assert both["adapters"] == {"adapters/a": 0.5, "adapters/b": 1.0} and len(both["sheet"]) == 4
    assert all(picture["adapters"] == both["adapters"] for picture in both["sheet"])
    pixels = {name: _pixels(f"{name}.png") for name in ("plain", "both", "zero")}
    assert pixels["plain"] == pixels["zero"] != pixels["both"]


def test_a_sheet_of_a_forced_adapter_says_so(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(own, tmp_path / "a")
    rewrite(tmp_path / "a", base_fingerprint="0" * 64)
    words = ("sheet", "Brain MRI.", "--model", own, "--seeds", "0", "--out", tmp_path / "s.png")
    assert call(*words, "--adapter", tmp_path / "a") == 2
    assert "(--force-adapter)" in capsys.readouterr().err and not (tmp_path / "s.png").exists()
    assert call(*words, "--adapter", tmp_path / "a", "--force-adapter") == 0
    assert "was made for" in vlgen.info(tmp_path / "s.png")["sheet"][0]["adapter_forced"][0]


def _pixels(path: str) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()
