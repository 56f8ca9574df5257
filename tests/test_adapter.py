"""Adapters: a fresh one changes nothing, a saved one comes back bit for bit, and a wrong one is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_own
from safetensors.torch import load_file, save_file

from vlgen.adapter import CONTRACT, WEIGHTS, Adapter, add, load, save
from vlgen.backbone import Backbone
from vlgen.backbone import load as load_backbone
from vlgen.checkpoint import sha256


def contract(backbone: Backbone, **changes: Any) -> Adapter:
    facts: dict[str, Any] = {
        "name": "test-lora",
        "base": backbone.name,
        "base_fingerprint": backbone.fingerprint,
        "prediction": backbone.prediction,
        "modality": "cxr",
        "kernel": "gaussian",
        "rank": 2,
        "alpha": 4.0,
        "targets": ("to_q", "to_v"),
    }
    return Adapter(**(facts | changes))


@pytest.fixture(scope="module")
def saved(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A trained-like adapter on disk, and what the backbone answers with it."""
    backbone = load_backbone(own)
    adapter = contract(backbone)
    torch.manual_seed(0)
    for parameter in add(backbone, adapter):
        torch.nn.init.normal_(parameter.data, std=0.3)
    folder = tmp_path_factory.mktemp("adapters") / "cxr-test"
    save(backbone, adapter, folder)
    return folder, backbone.probe()


def test_a_fresh_adapter_changes_nothing(own: Path) -> None:
    backbone = load_backbone(own)
    before = backbone.probe()
    mine = add(backbone, contract(backbone))
    assert torch.equal(backbone.probe(), before)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in mine)
    assert not any(p.requires_grad for name, p in backbone.unet.named_parameters() if "lora" not in name)


def test_save_and_load_is_bit_exact(own: Path, saved: tuple[Path, torch.Tensor]) -> None:
    folder, answer = saved
    backbone = load_backbone(own, adapter=folder)
    assert torch.equal(backbone.probe(), answer)
    assert backbone.adapters == {str(folder): 1.0}


def test_scale_zero_is_the_base_and_half_is_between(own: Path, saved: tuple[Path, torch.Tensor]) -> None:
    folder, answer = saved
    base = load_backbone(own).probe()
    assert torch.equal(load_backbone(own, adapter=f"{folder}:0").probe(), base)
    half = load_backbone(own, adapter=f"{folder}:0.5").probe()
    assert not torch.equal(half, base) and not torch.equal(half, answer)


def _contract(folder: Path, **changes: Any) -> None:
    found = json.loads((folder / CONTRACT).read_text()) | changes
    (folder / CONTRACT).write_text(json.dumps(found))


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
        _contract(folder, sha256=sha256(folder / WEIGHTS))  # a contract that agrees, so that the next check speaks

    return apply


def _flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def _pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS)
    _contract(folder, sha256=sha256(folder / WEIGHTS))


def _first(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state[min(state)].view(-1)[0] = value
        return state

    return change


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: _contract(f, base_fingerprint="0" * 64), "was made for"),
        (lambda f: _contract(f, prediction="epsilon"), "is for epsilon"),
        (lambda f: _contract(f, modality="xray"), "unknown modality"),
        (lambda f: _contract(f, rank=0), "must be above 0"),
        (lambda f: _contract(f, rank=2.5), "must be above 0"),
        (lambda f: _contract(f, alpha=float("inf")), "must be above 0"),
        (lambda f: _contract(f, name=5), "wants text"),
        (lambda f: _contract(f, name=""), "needs a name"),
        (lambda f: _contract(f, targets=[]), "needs a name"),
        (lambda f: _contract(f, kernel="cauchy"), "kernel 'cauchy' is unknown"),
        (lambda f: _contract(f, surprise=1), "does not know 'surprise'"),
        (lambda f: _contract(f, targets=["no_such"]), "no module"),
        (lambda f: _contract(f, rank=3), r"is \(2, "),
        (_flip, "sha256 differs"),
        (_pickle, "not a safetensors file"),
        (lambda f: (f / WEIGHTS).unlink(), "has no pytorch_lora"),
        (lambda f: (f / CONTRACT).unlink(), "unknown adapter"),
        (_weights(_first(float("nan"))), "not finite"),
        (_weights(_first(1e30)), "above 1e4"),
        (_weights(lambda s: {k: v for i, (k, v) in enumerate(sorted(s.items())) if i % 2}), "lacks key"),
        (_weights(lambda s: {"transformer." + k: v for k, v in s.items()}), "must begin with"),
        (_weights(lambda s: s | {"unet.extra.lora_A.weight": torch.zeros(2, 2)}), "has the unknown key"),
        (_weights(lambda s: {k: torch.zeros_like(v) for k, v in s.items()}), "changes nothing"),
    ],
)
def test_a_damaged_or_foreign_adapter_is_refused(
    own: Path, saved: tuple[Path, torch.Tensor], tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "a")
    harm(folder)
    backbone = load_backbone(own)
    before = backbone.probe()
    with pytest.raises(ValueError, match=said):
        load(backbone, folder)
    assert torch.equal(backbone.probe(), before), "a refused adapter leaves the backbone as it was"


def test_another_base_of_the_same_shape_is_refused(saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    other = load_backbone(build_own(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match="was made for tiny"):
        load(other, saved[0])


def test_its_kernel_becomes_the_default(own: Path, saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    from vlgen.plan import plan

    folder = shutil.copytree(saved[0], tmp_path / "b")
    _contract(folder, kernel="pfgmpp:128")
    backbone = load_backbone(own, adapter=folder)
    assert plan(backbone, "Chest radiograph.").kernel.name == "pfgmpp:128"
    assert plan(backbone, "Chest radiograph.").notes == ()
    assert "trained under pfgmpp:128" in plan(backbone, "Chest radiograph.", kernel_name="gaussian").notes[0]
    assert any("adapter was trained on" in note for note in plan(backbone, "Brain MRI.").notes)
    with pytest.raises(ValueError, match="twice"):
        load_backbone(own, adapter=[folder, folder])


def test_kernels_do_not_mix(own: Path, saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    other = shutil.copytree(saved[0], tmp_path / "b")
    _contract(other, name="other", kernel="pfgmpp:128")
    with pytest.raises(ValueError, match="use one kernel"):
        load_backbone(own, adapter=[saved[0], other])


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9"])
def test_scales_must_be_numbers(own: Path, saved: tuple[Path, torch.Tensor], scale: str) -> None:
    with pytest.raises(ValueError, match="scale"):
        load_backbone(own, adapter=f"{saved[0]}:{scale}")


def test_the_contract_round_trips(own: Path, saved: tuple[Path, torch.Tensor]) -> None:
    found = json.loads((saved[0] / CONTRACT).read_text())
    assert found == json.loads(json.dumps(asdict(contract(load_backbone(own), sha256=sha256(saved[0] / WEIGHTS)))))


def test_a_plain_diffusers_unet_loads_it_and_predicts_the_same(own: Path, saved: tuple[Path, torch.Tensor]) -> None:
    backbone = load_backbone(own)
    backbone.unet.load_lora_adapter(saved[0] / WEIGHTS, prefix="unet")
    # diffusers has no rank/alpha in the file and takes alpha = rank: the contract's alpha / rank is applied here
    backbone.unet.set_adapters(backbone.unet.active_adapters(), [2.0])
    assert torch.allclose(backbone.probe(), saved[1], atol=1e-6)
