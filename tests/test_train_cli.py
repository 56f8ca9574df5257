"""The command train, as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from films import films

from vlgen.adapter import read
from vlgen.cli import main

WORDS = ("--steps", 2, "--batch", 4, "--rank", 2, "--mixed", "no", "--phrasings", 1, "--audit", 2)


def call(*arguments: object) -> int:
    import vlgen.cli.train  # noqa: F401  (adds the command)

    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def test_train_and_train_again(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = films(tmp_path / "set"), tmp_path / "adapters" / "mine"
    assert call("train", folder, "--out", out, "--model", own, *WORDS, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "rows:" in said and "memory: about" in said and not out.parent.exists()
    assert call("train", folder, "--out", out, "--model", own, *WORDS, "--targets", "to_q", "--targets", "to_k") == 0
    said = capsys.readouterr().out
    assert (
        "train 1/2  loss" in said and "images/s" in said and "min left" in said and f"the adapter is in {out}" in said
    )
    assert "held-out loss" in said and "audit" in said and "acute" not in said
    first = read(out)
    assert first.targets == ("to_q", "to_k") and first.steps == 2
    assert call("train", folder, "--out", out, "--model", own, *WORDS, "--targets", "to_q,to_k") == 0
    assert read(out) == first and "train 1/2" not in capsys.readouterr().out
    assert call("generate", "Chest radiograph.", "--model", own, "--adapter", out, "--out", tmp_path / "o") == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rank", 0), "rank is 0"),
        (("--report-column", "words"), "has no column 'words' for the report"),
        (("--plane", "oblique"), "plane 'oblique'"),
        (("--table", "none.csv"), "the table none.csv is no file"),
        (("--like", "nowhere"), "unknown adapter"),
    ],
)
def test_no_is_one_sentence(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[object, ...], said: str
) -> None:
    assert call("train", films(tmp_path / "set"), "--out", tmp_path / "mine", "--model", own, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("vlgen: ") and said in error and error.count("\n") == 1
