"""Merging: a sum of adapters as one adapter, or inside a model's weights, makes the same image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import FACTS, bare, rewrite, stored
from conftest import build_own
from safetensors.torch import load_file, save_file

from vlgen.adapter import check, merge, read
from vlgen.backbone import Backbone
from vlgen.backbone import load as load_backbone
from vlgen.generate import generate


@pytest.fixture(scope="module")
def pair(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters that share some modules and not others, of other ranks and licences."""
    folder = tmp_path_factory.mktemp("pair")
    stored(own, folder / "a", name="a", targets="text", rank=2, facts={**FACTS, "data_sha256": "1" * 64})
    mine = {"modality": "mri", "licence": "MIT", "steps": 5, "data_sha256": "2" * 64}
    stored(own, folder / "b", name="b", targets="wide", rank=3, seed=1, facts=mine)
    return folder / "a", folder / "b"


def image(backbone: Backbone) -> torch.Tensor:
    return generate(backbone, "Chest radiograph. Effusion.", seeds=[0, 1], steps=2).pixels


def test_a_merged_adapter_is_the_sum(own: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    backbone = load_backbone(own)
    bare = backbone.probe()
    specs = [f"{pair[0]}:0.7", f"{pair[1]}:-0.4"]
    assert merge(specs, backbone, tmp_path / "sum", name="sum") == tmp_path / "sum"
    assert torch.equal(backbone.probe(), bare) and not backbone.carried
    both, one = load_backbone(own, adapter=specs), load_backbone(own, adapter=tmp_path / "sum")
    assert torch.allclose(one.probe(), both.probe(), rtol=0, atol=1e-5)  # float32; 1e-6 was seen
    assert torch.allclose(image(one), image(both), rtol=0, atol=1e-5)
    found = read(tmp_path / "sum")
    assert (found.rank, found.alpha, found.steps, found.images) == (5, 5.0, 8, 12)
    assert (found.modality, found.licence, found.audit) == ("", "CC BY 4.0 and MIT", {})
    assert [part["scale"] for part in found.facts["merged"]] == [0.7, -0.4]
    assert len(found.data_sha256) == 64 and found.data_sha256 not in ("1" * 64, "2" * 64)
    assert check(tmp_path / "sum", backbone) == ["its contract holds no audit"]


@pytest.mark.parametrize("model", ["own", "stable"])
def test_a_merged_model_makes_the_same_image(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = request.getfixturevalue(model)
    stored(base, tmp_path / "a", name="a", targets=("wide", "text"))
    stored(base, tmp_path / "b", name="b", targets="full", seed=1)
    specs = [f"{tmp_path / 'a'}:0.7", f"{tmp_path / 'b'}:0.5"]
    merge(specs, load_backbone(base), tmp_path / "model", to="model", name="both")
    merged, both = load_backbone(tmp_path / "model"), load_backbone(base, adapter=specs)
    assert merged.name == "both" and not merged.adapters and merged.size == both.size
    assert torch.allclose(image(merged), image(both), rtol=0, atol=1e-5)
    assert not torch.allclose(image(merged), image(load_backbone(base)), atol=1e-3)
    assert merged.card["licence"].endswith("CC BY 4.0") and len(merged.card["merged"]) == 2
    for file in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        assert (tmp_path / "model" / file).read_bytes() == (base / file).read_bytes()
    with pytest.raises(ValueError, match="was made for"):
        load_backbone(tmp_path / "model", adapter=tmp_path / "a")


def test_a_full_fine_tune_alone_is_itself(own: Path, tmp_path: Path) -> None:
    _, answer = stored(own, tmp_path / "a", targets="full", facts={"kernel": "pfgmpp:128", "modality": "pet"})
    merge([tmp_path / "a"], load_backbone(own), tmp_path / "model", to="model")
    merged = load_backbone(tmp_path / "model")
    assert torch.equal(merged.probe(), answer)
    assert merged.kernel == merged.base_kernel == "pfgmpp:128"
    assert merged.card["modalities"] == ["cxr", "mri", "us", "ct", "pet"]


def test_half_precision_bases_keep_what_is_not_changed(own: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(own, tmp_path / "base")
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    stored(base, tmp_path / "a")
    merge([tmp_path / "a"], load_backbone(base), tmp_path / "model", to="model")
    kinds = {n: v.dtype for n, v in load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors").items()}
    assert {n for n, kind in kinds.items() if kind == torch.float32} == {
        n for n in kinds if ".to_" in n and "bias" not in n
    }
    merged, both = load_backbone(tmp_path / "model"), load_backbone(base, adapter=tmp_path / "a")
    assert torch.allclose(merged.probe(), both.probe(), rtol=0, atol=1e-5)


def _merge(own: Path, specs: list[Any], out: Path, **how: Any) -> Path:
    return merge(specs, bare(own), out, **how)


def test_what_does_not_add_up_is_refused(own: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    heavy, window = (shutil.copytree(pair[0], tmp_path / name) for name in ("heavy", "window"))
    rewrite(heavy, kernel="pfgmpp:128", D=128)
    rewrite(window, modality="ct", window=[-150.0, 250.0])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="use one kernel"):
        _merge(own, [pair[1], heavy], out)
    with pytest.raises(ValueError, match="window of its own"):
        _merge(own, [window], out, to="model")
    with pytest.raises(ValueError, match="nothing to merge"):
        _merge(own, [f"{pair[0]}:0"], out)
    with pytest.raises(ValueError, match="choose adapter or model"):
        _merge(own, [pair[0]], out, to="checkpoint")
    with pytest.raises(ValueError, match="one of the things to merge"):
        _merge(own, [pair[0]], pair[0])
    with pytest.raises(ValueError, match="exists"):
        _merge(own, [pair[0]], tmp_path, to="model")
    stored(own, tmp_path / "whole", targets="full")
    with pytest.raises(ValueError, match="merge it to a model"):
        _merge(own, [tmp_path / "whole"], out)
    other = build_own(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="was made for tiny"):
        _merge(other, [pair[0]], out)
    assert not out.exists() and not list(tmp_path.glob(".*"))
    found = read(merge([pair[0]], bare(other), out, force=True))
    assert "was made for tiny" in found.facts["forced"][0]
    assert "was made for tiny" in load_backbone(other, adapter=out).forced[0], "and so will every image"
    merge([pair[0]], bare(other), tmp_path / "model", to="model", force=True)
    assert "was made for tiny" in load_backbone(tmp_path / "model").forced[0]
    assert json.dumps(found.facts).count(str(tmp_path)) == 0
