"""Commands about adapters, as a user meets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from adapted import FACTS, rewrite, stored
from conftest import build_own

import vlgen
from vlgen.adapter import WEIGHTS, read
from vlgen.checkpoint import sha256
from vlgen.cli import main

TEXT = "AP chest radiograph. Large left pleural effusion."
FAST = ("--seeds", 3, "--steps", 2, "--out", "out")


def call(*arguments: object) -> int:
    import vlgen.cli.adapters  # noqa: F401  (adds the commands)

    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def shelf(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two adapters in ./adapters."""
    folder = tmp_path_factory.mktemp("work")
    stored(own, folder / "adapters" / "effusion", name="effusion", facts={**FACTS, "audit": {"ratio": 1.0}})
    stored(own, folder / "adapters" / "other", name="other", seed=1, rank=3, facts={"modality": "mri"})
    return folder


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it in which a test stands."""
    shutil.copytree(shelf / "adapters", tmp_path / "adapters")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_the_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(shutil.copytree("adapters/other", here / "adapters" / "broken"), kernel="cauchy")
    assert call("adapters") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for said in ("cxr", "effusion", "base tiny", "gaussian", " trained ", "CC BY 4.0", "adapters/effusion/README.md"):
        assert said in lines["effusion"]
    assert "not trained" in lines["other"] and "refused: kernel 'cauchy' is unknown" in lines["broken"]
    assert call("adapters", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["effusion"]["trained"] and not rows["other"]["trained"] and rows["broken"]["refused"]
    assert call("adapters", here) == 0
    assert "no adapters here; vlgen train" in capsys.readouterr().out


def test_check_holds_adapters_to_their_contracts(own: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("adapter", "check", "effusion", "adapters/other", "--model", own) == 0
    out = capsys.readouterr().out
    assert out.startswith("effusion on ") and out.count("  ok       fit") == 2 and "refused" not in out
    assert "note     audit         its contract holds no audit" in out
    rewrite(here / "adapters" / "other", size=64)
    assert call("adapter", "check", "effusion", "other", "--model", own) == 2
    out = capsys.readouterr().out
    assert "  refused  size          adapter other was made for size 64, but tiny has 32" in out
    assert out.count("refused") == 1 and out.count("  ok       fit") == 2
    assert call("adapter", "check", "other", "--model", own, "--json") == 2
    [rows] = json.loads(capsys.readouterr().out).values()
    assert {row["check"] for row in rows if row["verdict"] == "refused"} == {"size"}
    assert call("adapter", "check", "nowhere", "--model", own) == 2
    assert "refused  contract      unknown adapter 'nowhere'" in capsys.readouterr().out


def test_check_finds_the_base_that_a_contract_names(own: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(own, here / "tiny")
    assert call("adapter", "check", "effusion") == 0
    assert "effusion on tiny" in capsys.readouterr().out
    shutil.rmtree(here / "tiny")
    assert call("adapter", "check", "effusion") == 2
    out = capsys.readouterr().out
    assert "effusion on mini" in out and "refused  base          adapter effusion was made for tiny" in out


def test_generate_with_adapters_says_so_in_every_file(
    own: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = ("--adapter", "effusion:0.8", "--adapter", "other:0.4")
    assert call("generate", TEXT, "--model", own, *several, *FAST, "--grid") == 0
    out = capsys.readouterr().out
    assert "adapter adapters/effusion:0.8 + adapters/other:0.4" in out
    assert "an adapter was trained on brain MRI" in out
    files = sorted(Path("out").iterdir())
    sums = [sha256(here / "adapters" / name / WEIGHTS) for name in ("effusion", "other")]
    for found in (vlgen.info(file) for file in files):
        [record] = found.get("sheet", [found])
        assert record["adapters"] == {"adapters/effusion": 0.8, "adapters/other": 0.4}
        assert record["adapter_sha256"] == sums and record["adapter_forced"] == []
    assert len(files) == 2
    assert call("generate", TEXT, "--model", own, "--adapter", "effusion:much", *FAST) == 2
    assert "unknown adapter 'effusion:much'" in capsys.readouterr().err


def test_force_adapter_is_recorded(own: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = build_own(tmp_path / "model", seed=1)
    words = ("generate", TEXT, "--model", other, "--adapter", "effusion", *FAST)
    assert call(*words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "was made for tiny" in err and "(--force-adapter)" in err
    assert not Path("out").exists()
    assert call(*words, "--force-adapter") == 0
    assert "note: overridden: adapter effusion was made for tiny" in capsys.readouterr().out
    [file] = Path("out").iterdir()
    [forced] = vlgen.info(file)["adapter_forced"]
    assert "adapter effusion was made for tiny" in forced
    before = file.read_bytes()
    assert call("info", file) == 0
    assert "--force-adapter" in capsys.readouterr().out
    assert call(*words, "--force-adapter") == 0 and file.read_bytes() == before


def test_merge(own: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("adapter", "merge", "effusion:0.5", "other", "--out", "adapters/sum", "--model", own) == 0
    assert capsys.readouterr().out == "adapters/sum\n"
    found = read(here / "adapters" / "sum")
    assert (found.name, found.rank) == ("sum", 5) and [part["scale"] for part in found.facts["merged"]] == [0.5, 1.0]
    assert call("adapter", "merge", "effusion", "other", "--to", "model", "--out", "model", "--model", own) == 0
    assert vlgen.load("model").name == "model"
    assert call("adapter", "merge", "effusion", "--to", "zip", "--out", "x", "--model", own) == 2
    assert "choose adapter or model" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["diffusers", "peft", "kohya"])
def test_export_and_import(own: Path, here: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("adapter", "export", "--to", to, "effusion", "--out", "out") == 0
    file = Path(capsys.readouterr().out.strip())
    assert file.exists()
    assert call("adapter", "import", file, "--out", "back", "--model", own) == 0
    assert capsys.readouterr().out == "back: effusion, rank 2, alpha 4, for tiny\n"
    assert (here / "back" / WEIGHTS).read_bytes() == (here / "adapters" / "effusion" / WEIGHTS).read_bytes()
    given = ("--name", "mine", "--licence", "MIT", "--task", "tumor", "--modality", "mri", "--kernel", "pfgmpp:64")
    assert call("adapter", "import", file, "--out", "mine", "--model", own, *given) == 0
    found = read(here / "mine")
    assert (found.name, found.licence, found.task, found.modality) == ("mine", "MIT", "tumor", "mri")
    assert (found.kernel, found.D, found.steps) == ("pfgmpp:64", 64.0, 3)


def test_no_is_one_sentence_and_exit_code_2(own: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (("export", "--to", "gguf", "effusion", "--out", "x"), "choose of diffusers, peft, kohya"),
        (("export", "--to", "peft", "nowhere", "--out", "x"), "unknown adapter 'nowhere'"),
        (("import", "nothing.safetensors", "--out", "x", "--model", own), "cannot be read"),
        (("merge", "effusion:nan", "--out", "x", "--model", own), "give a number from -10 to 10"),
        (("merge", "effusion", "--out", "adapters/effusion", "--model", own), "one of the things to merge"),
        (("merge", "effusion", "--out", "/dev/null/x", "--model", own), "cannot write into"),
        (("check",), "Missing argument"),
    ):
        assert call("adapter", *words) == 2
        err = capsys.readouterr().err
        assert said in err and err.startswith("vlgen: ") and err.count("\n") == 1, words
    assert {file.name for file in here.iterdir()} == {"adapters"}
