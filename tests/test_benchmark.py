"""The benchmark of the Frechet distance: the reference package on the same features, in turn with ours."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest

from vlgen.benchmark import frechet_timing, path_timing
from vlgen.precision import quick
from vlgen.schedules import FILE, Stored, karras, kept


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


@pytest.mark.parametrize("row", [True, False])
def test_a_whole_image_is_timed_against_diffusers_default(own: Path, tmp_path: Path, row: bool) -> None:
    """With levels for 30 steps that come as close as diffusers does, and with those for two that do not."""
    model = shutil.copytree(own, tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    index["vlgen"]["defaults"]["steps"] = 40
    (model / "model_index.json").write_text(json.dumps(index))
    counts = (2, 30) if row else (2, 3)
    levels = [karras(n, 0.02, 80.0).tolist() for n in counts]
    guidance = (2.0, 0.0, math.inf, 0.0)
    (model / FILE).write_text(kept([], [Stored("dpmpp_2m", "gaussian", guidance, tuple(each)) for each in levels]))
    found = path_timing(str(model), images=1, repeats=1, teacher=20)
    theirs = found["diffusers, DDIM 50"]
    names = ["vlgen", "vlgen, 30 steps"] if row else ["vlgen"]
    half = [f"{name}, bf16" for name in names] if quick("cpu") else []
    assert list(found) == [*names, *half, "diffusers, DDIM 50"]
    for each in found.values():
        assert each["ratio"] == pytest.approx(theirs["cpu_s"] / each["cpu_s"])
        assert 0 < each["distance"] < 1, "all end near the exact path's end"
    if row:
        assert found["vlgen, 30 steps"]["distance"] <= theirs["distance"]
    for name in half:
        assert 0 < found[name]["error"] < found[name]["worst"] < 0.1 and found[name]["decode_db"] > 40
