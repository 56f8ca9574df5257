"""What lies beside the weights: a card that the Hub takes, a list of adapters, and a check that names every fault."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapted import FACTS, bare, rewrite, stored
from conftest import build_own
from safetensors.torch import load_file, save_file

from vlgen.adapter import CONTRACT, WEIGHTS, amend, check, examine, find, listing, read
from vlgen.adapter.card import CARD, faults
from vlgen.backbone import load as load_backbone
from vlgen.checkpoint import sha256

AUDIT = {"held_out_loss": {"before": 0.31, "after": 0.24}, "sentence": "It did not copy a training image."}


@pytest.fixture(scope="module")
def saved(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "cxr-effusion"
    stored(own, folder, facts={**FACTS, "audit": AUDIT, "learning_rate": 1e-4})
    return folder


# What the Hub's documentation asks of a model's metadata, written down here apart from the code that makes it.
SCHEMA: dict[str, Callable[[Any], bool]] = {
    "license": lambda v: v in ("cc-by-4.0", "apache-2.0", "mit", "cc0-1.0", "other", "unknown"),
    "library_name": lambda v: v == "diffusers",
    "base_model": lambda v: isinstance(v, str) and bool(re.fullmatch(r"(?:[\w.-]+/)?[\w.-]{1,96}", v)),
    "pipeline_tag": lambda v: v == "text-to-image",
    "tags": lambda v: isinstance(v, list) and all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in v) and "lora" in v,
}


def test_the_card_is_one_that_the_hub_takes(saved: Path) -> None:
    text = (saved / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert set(found) == set(SCHEMA)
    for name, holds in SCHEMA.items():
        assert holds(found[name]), name
    assert faults(text) == [] and check(saved) == []
    signed = read(saved)
    for said in (signed.sha256, "0.24", "It did not copy a training image.", "chest radiograph", "synthetic", "0.0001"):
        assert said in body
    assert str(saved.parent) not in text


@pytest.mark.parametrize(
    ("licence", "key", "name"),
    [
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0", None),
        ("Apache-2.0", "apache-2.0", None),
        ("", "unknown", None),
        ("PhysioNet Credentialed 1.5.0", "other", "physionet-credentialed-1.5.0"),
    ],
)
def test_licences_as_people_write_them(saved: Path, tmp_path: Path, licence: str, key: str, name: str | None) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    amend(folder, {"licence": licence})
    text = (folder / CARD).read_text()
    found = yaml.safe_load(text.split("---\n")[1])
    assert found["license"] == key and found.get("license_name") == name and faults(text) == []


def test_an_audit_comes_later_and_the_weights_stay(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    before = (folder / WEIGHTS).read_bytes()
    found = amend(folder, {"audit": {"ratio": 1.02, "sentence": "It copied | <b>3</b> images."}, "seconds": 12})
    assert read(folder) == found and found.audit["ratio"] == 1.02 and found.steps == 3
    assert found.facts == {"learning_rate": 1e-4, "seconds": 12}
    assert (folder / WEIGHTS).read_bytes() == before
    assert r"It copied \| \<b\>3\</b\> images." in (folder / CARD).read_text()
    with pytest.raises(ValueError, match="patient data"):
        amend(folder, {"audit": {"report": "Heart size normal."}})
    with pytest.raises(ValueError, match="whole number"):
        amend(folder, {"steps": -1})
    assert read(folder) == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("---\n", "", 1), "no front matter"),
        (lambda t: t.replace("license: cc-by-4.0\n", ""), "license is none"),
        (lambda t: t.replace("license: cc-by-4.0", "license: other"), "needs a license_name"),
        (lambda t: t.replace("library_name: diffusers", "library_name: torch"), "library_name"),
        (lambda t: t.replace("base_model: tiny", "base_model: /home/me/tiny"), "base_model"),
        (lambda t: t.replace("- lora\n", "- 3\n"), "tags"),
        (lambda t: t.replace("license: ", "license: [", 1), "not YAML"),
        (lambda t: t.split("\n# ")[0], "says nothing"),
    ],
)
def test_a_card_that_is_none_is_found(saved: Path, change: Callable[[str], str], said: str) -> None:
    text = (saved / CARD).read_text()
    assert change(text) != text and any(said in fault for fault in faults(change(text)))


def _zero(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v * (".lora_A." in k) for k, v in tensors.items()}, folder / WEIGHTS)
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


def _lone(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(min(tensors))
    save_file(tensors, folder / WEIGHTS)
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


def _vector(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v.flatten() for k, v in tensors.items()}, folder / WEIGHTS)
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / CONTRACT).unlink(), "unknown adapter"),
        (lambda f: (f / WEIGHTS).unlink(), "it has no pytorch_lora"),
        (lambda f: (f / CARD).unlink(), "it has no README.md"),
        (lambda f: rewrite(f, sha256="0" * 64), "sha256 differs"),
        (lambda f: rewrite(f, rank=4), "of rank 2, but the contract says 4"),
        (lambda f: rewrite(f, licence=""), "names no licence"),
        (lambda f: rewrite(f, audit={}), "holds no audit"),
        (lambda f: (f / "optimizer.bin").write_bytes(b""), "pickle by its name"),
        (_zero, "changes nothing"),
        (_lone, "it lacks key"),
        (_vector, "of shape (32,), but the contract says 2"),
    ],
)
def test_a_check_names_what_is_wrong(saved: Path, tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    harm(folder)
    found = check(folder)
    assert len(found) == 1 and said in found[0]


def test_every_check_is_made_and_said(own: Path, saved: Path, tmp_path: Path) -> None:
    found = {each.what: each for each in examine(saved, bare(own))}
    assert list(found) == [
        *("contract", "sha256", "weights", "base", "prediction", "codec", "codec scale", "text encoder", "max tokens"),
        *("chunks", "size", "modality", "fit", "card", "licence", "audit"),
    ]
    assert {each.verdict for each in found.values()} == {"ok"}
    assert found["sha256"].said == sha256(saved / WEIGHTS)[:12] and found["licence"].said == "CC BY 4.0"
    folder = shutil.copytree(saved, tmp_path / "a")
    rewrite(folder, licence="", size=64, sha256="0" * 64)
    wrong = {each.what: each.verdict for each in examine(folder, bare(own)) if each.verdict != "ok"}
    assert wrong == {"sha256": "refused", "size": "refused", "licence": "note"}
    folder = shutil.copytree(saved, tmp_path / "b")
    rewrite(folder, alpha=9.0, facts={"forced": ["was made for another"]})
    wrong = {each.what: (each.verdict, each.said) for each in examine(folder, bare(own)) if each.verdict != "ok"}
    assert wrong["fit"] == (
        "refused",
        "adapter test-lora has weights made for unet.lora_alpha 4, but its contract says 9",
    )
    assert wrong["origin"] == ("note", "adapter test-lora: was made for another") and len(wrong) == 2


def test_nothing_in_a_contract_is_markup_or_a_command(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    rewrite(folder, base="tiny; curl x | sh", task="![a](http://x/a.png) <b>")
    text = (amend(folder, {"note": "\x1b[2Jx\n# y"}), (folder / CARD).read_text())[1]
    assert "--model 'tiny; curl x | sh' --adapter" in text and "\x1b" not in text and "\n# y" not in text
    assert r"!\[a\](http://x/a.png) \<b\>" in text and faults(text) == []


def test_a_check_on_a_backbone_names_every_difference_and_leaves_it_alone(
    own: Path, saved: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(own)
    bare = backbone.probe()
    assert check(saved, backbone) == []
    folder = shutil.copytree(saved, tmp_path / "a")
    rewrite(folder, size=64, chunks=2)
    assert [said.split(",")[0] for said in check(folder, backbone)] == [
        "adapter test-lora was made for chunks 2",
        "adapter test-lora was made for size 64",
    ]
    other = load_backbone(build_own(tmp_path / "other", seed=1))
    assert ["was made for tiny" in said for said in check(saved, other)] == [True]
    assert torch.equal(backbone.probe(), bare) and not backbone.carried and not other.carried


def test_the_list_names_every_adapter_once(
    own: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "adapters"
    shutil.copytree(saved, shelf / "cxr-effusion")
    broken = shutil.copytree(saved, shelf / "broken")
    rewrite(broken, kernel="cauchy")
    lost = shutil.copytree(saved, shelf / "lost")
    (lost / WEIGHTS).unlink()
    rows = {row["name"]: row for row in listing([shelf, shelf])}
    assert len(rows) == 3
    size = (saved / WEIGHTS).stat().st_size / 2**20
    assert rows["cxr-effusion"] == {
        "name": "cxr-effusion",
        "modality": "cxr",
        "task": "effusion",
        "base": "tiny",
        "kernel": "gaussian",
        "targets": "attention",
        "trained": True,
        "licence": "CC BY 4.0",
        "size_mib": round(size, 2),
        "card": str(shelf / "cxr-effusion" / CARD),
        "folder": str(shelf / "cxr-effusion"),
        "refused": "",
    }
    assert "cauchy" in rows["broken"]["refused"] and "weights are missing" in rows["lost"]["refused"]
    monkeypatch.chdir(tmp_path)
    assert {row["name"] for row in listing()} >= set(rows), "./adapters, and those that came with vlgen"
    for name in ("cxr-effusion", "adapters/cxr-effusion"):
        assert find(name).resolve() == shelf / "cxr-effusion"
    assert load_backbone(own, adapter="cxr-effusion:0.5").adapters == {"adapters/cxr-effusion": 0.5}
    assert find("/elsewhere/cxr-effusion") == Path("/elsewhere/cxr-effusion"), "a path is never taken for a name"
