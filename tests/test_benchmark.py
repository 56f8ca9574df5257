"""The benchmark of the Frechet distance: the reference package on the same features, in turn with ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlgen.benchmark import frechet_timing, path_timing


def test_frechet_is_timed_against_the_reference_package() -> None:
    pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is a reference, not a dependency")
    found = frechet_timing(40, 64, repeats=2, others=[(120, 16)])
    assert list(found) == ["frechet n=40 d=64", "frechet n=120 d=16"] and [row["n"] for row in found.values()] == [2, 1]
    for row in found.values():
        assert row["relative_difference"] < 1e-6
        assert row["ratio"] == pytest.approx(row["pytorch_fid_wall_s"] / row["wall_s"]) and row["cpu_ratio"] > 0


def test_a_missing_reference_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_fid.fid_score", None)
    with pytest.raises(ValueError, match="pip install pytorch-fid"):
        frechet_timing()


def test_a_whole_image_is_timed_against_diffusers_default(own: Path) -> None:
    found = path_timing(str(own), images=1, repeats=1, teacher=40)
    ours, theirs = found["vlgen"], found["diffusers, DDIM 50"]
    assert ours["ratio"] == 1 and theirs["ratio"] == pytest.approx(theirs["cpu_s"] / ours["cpu_s"])
    assert 0 < ours["distance"] < 1 and 0 < theirs["distance"] < 1, "both end near the exact path's end"
