"""The command line as a user meets it: what it prints, what it writes, and how it says no."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vlgen
from vlgen.cli import main, seed_list

TEXT = "AP chest radiograph. Large left pleural effusion."


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def test_generate_writes_images_and_says_how(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("generate", TEXT, "--model", own, "--out", tmp_path, "--seeds", "0-1", "--grid") == 0
    out, err = capsys.readouterr()
    assert out.startswith("model tiny | adapter none | kernel gaussian | solver dpmpp_2m | steps 3 | nfe 6")
    assert "tokens kept" in out and "dropped 0" in out and TEXT not in out + err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3 and all(str(tmp_path / name) in out for name in names)
    assert not any("effusion" in name for name in names)


def test_json_is_one_object_and_nothing_else(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("generate", TEXT, "--model", own, "--out", tmp_path, "--seeds", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [3] and found["nfe"] == 6
    assert len(found["files"]) == 1 and Path(found["files"][0]).is_file()
    assert call("info", found["files"][0], "--json") == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    assert call("info", found["files"][0]) == 0
    assert "vlgen generate" in capsys.readouterr().out


def test_dry_run_writes_nothing(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("generate", TEXT, "--model", own, "--out", tmp_path / "no", "--dry-run") == 0
    assert "seeds 0-3" in capsys.readouterr().out and not (tmp_path / "no").exists()


@pytest.mark.parametrize("format", ["png", "npy", "dicom"])
def test_the_same_command_gives_the_same_file(own: Path, tmp_path: Path, format: str) -> None:
    for folder in ("a", "b"):
        command = ["generate", TEXT, "--model", own, "--out", tmp_path / folder, "--seeds", "5", "--format", format]
        assert call(*command) == 0
    a, b = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [p.name for p in a] == [p.name for p in b]
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(a, b, strict=True))


def test_a_report_from_a_file(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = " ".join(f"Rib number {k} is intact." for k in range(100))
    (tmp_path / "r.txt").write_text(f"FINDINGS: {findings}\nIMPRESSION: Chest radiograph. Normal.")
    assert call("generate", f"@{tmp_path / 'r.txt'}", "--model", own, "--out", tmp_path / "o", "--seeds", "0") == 0
    out = capsys.readouterr().out
    assert "dropped 0" not in out and "were dropped" in out, "a report of 500 words does not fit, and says so"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "is empty"),
        (["🫁"], "no English word"),
        (["x" * 30_000], "30,000 characters"),
        (["@/no/such/file"], "cannot be read"),
        ([TEXT, "--solver", "magic"], "unknown: use one of"),
        ([TEXT, "--kernel", "pfgmpp:x"], "unknown: use"),
        ([TEXT, "--adapter", "/no/such"], "unknown adapter"),
        ([TEXT, "--seeds", "3-1"], "rising whole numbers"),
        ([TEXT, "--seeds", "a"], "rising whole numbers"),
        ([TEXT, "--seeds", ""], "rising whole numbers"),
        ([TEXT, "--seeds", "0-99999999999"], "at most 10000"),
        ([TEXT, "--steps", "nan"], "--steps"),
        ([TEXT, "--steps", "-3"], "steps is -3"),
        ([TEXT, "--guidance-scale", "nan"], "guidance scale nan"),
        ([TEXT, "--guidance-scale", "-1"], "guidance scale -1"),
        ([TEXT, "--format", "jpeg"], "unknown format"),
        ([TEXT, "--no-such-option"], "No such option"),
        ([TEXT, "--out", "/dev/null/x"], "cannot write into"),
    ],
)
def test_no_is_one_sentence_and_exit_code_2(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    where = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    assert call("generate", *arguments, "--model", own, *where) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("vlgen: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.rglob("*.png"))


def test_unknown_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("generate", TEXT, "--model", "no-such-model", "--out", tmp_path) == 2
    assert "unknown model" in capsys.readouterr().err


def test_info_of_a_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(b"not a png")
    assert call("info", tmp_path / "x.png") == 2
    assert capsys.readouterr().err.startswith("vlgen: ")


def test_seed_list() -> None:
    assert seed_list("0-3,7, 9") == [0, 1, 2, 3, 7, 9]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlgen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_ctrl_c_ends_with_130_and_keeps_whole_files(own: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vlgen", "generate", TEXT, "--model", str(own), "--out", str(tmp_path)]
    work = subprocess.Popen(
        [*command, "--seeds", "0-9999"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    for _ in range(600):
        if list(tmp_path.glob("*.png")):
            break
        time.sleep(0.1)
    work.send_signal(signal.SIGINT)
    _, err = work.communicate(timeout=60)
    assert work.returncode == 130 and "Traceback" not in err
    files = list(tmp_path.iterdir())
    assert files and all(path.suffix == ".png" for path in files), "nothing half-written"


def test_imports_are_cheap() -> None:
    code = "import sys, vlgen; assert not {'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    code = "import sys, vlgen.cli; assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_help_and_python_m() -> None:
    done = _run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("generate", "models", "demo", "pretrain", "info"))


def test_report_text_reaches_no_log(own: Path, tmp_path: Path) -> None:
    secret = "Chest radiograph of Zebediah Quill."
    arguments = ["generate", secret, "--model", str(own), "--out", str(tmp_path), "--solver", "x"]
    done = subprocess.run(
        [sys.executable, "-m", "vlgen", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 2 and "Zebediah" not in done.stdout + done.stderr


def test_a_table_of_reports_becomes_images_and_a_table(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "metadata.csv", tmp_path / "out"
    table.write_text("file_name,text\na.png,Chest radiograph. Left effusion.\nb.png,Brain MRI. Glioma.\nc.png,\n")
    assert call("generate", "--reports", table, "--count", 5, "--seeds", 7, "--model", own, "--out", out) == 0
    assert "5 images, seeds 7 to 11" in capsys.readouterr().out
    with open(out / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and {row["text"] for row in rows} == {
        "Chest radiograph. Left effusion.",
        "Brain MRI. Glioma.",
    }
    for k, row in enumerate(rows):
        found = vlgen.info(out / row["file_name"])
        assert found["seed"] == 7 + k and found["modality"] == ("mri" if "MRI" in row["text"] else "cxr")
        assert "report" not in found
    assert call("generate", "x", "--reports", table) == 2
    assert call("generate", "--reports", tmp_path / "none", "--model", own) == 2
    assert "is no table of reports" in capsys.readouterr().err
