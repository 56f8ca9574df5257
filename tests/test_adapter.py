"""Adapters: a fresh one changes nothing, a saved one comes back bit for bit, and a wrong one is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import FACTS, answered, bare, rewrite, stored, trained
from conftest import build_own
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from vlgen.adapter import CONTRACT, WEIGHTS, add, load, read, save, use
from vlgen.adapter import loading as loading_module
from vlgen.adapter import saving as saving_module
from vlgen.adapter.loading import named
from vlgen.adapter.weights import pack, unpack
from vlgen.backbone import Backbone
from vlgen.backbone import load as load_backbone
from vlgen.checkpoint import sha256
from vlgen.generate import generate
from vlgen.images import ENDINGS, info, write
from vlgen.plan import again, plan

# The UNets of both are alike, their text towers are not.
BOTH = [("own", "attention"), ("own", "wide"), ("own", "text"), ("own", "full"), ("stable", "text")]


@pytest.fixture(scope="module")
def saved(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A trained-like adapter on disk, and what the backbone answers with it."""
    folder = tmp_path_factory.mktemp("adapters") / "cxr-test"
    return folder, stored(own, folder)[1]


@pytest.fixture(scope="module")
def other(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A second one of the same name, other weights, and the text tower among its targets."""
    folder = tmp_path_factory.mktemp("adapters") / "cxr-other"
    return folder, stored(own, folder, targets=("wide", "text"), seed=1, rank=3)[1]


@pytest.fixture(scope="module")
def shared(own: Path) -> Backbone:
    """A backbone for those that are refused: each must leave it as it was for the next."""
    return bare(own)


@pytest.mark.parametrize(("model", "targets"), BOTH)
def test_a_fresh_adapter_changes_nothing(model: str, targets: str, request: pytest.FixtureRequest) -> None:
    backbone = load_backbone(request.getfixturevalue(model))
    before = backbone.probe()
    mine = add(backbone, "fresh", rank=2, targets=targets)
    assert torch.equal(backbone.probe(), before)
    assert mine and all(p.dtype == torch.float32 and p.requires_grad for p in mine)
    everything = [*backbone.unet.parameters(), *backbone.text.tower.parameters()]
    assert sum(p.requires_grad for p in everything) == len(mine), "all else is frozen"


def test_a_fresh_adapter_follows_from_its_seed_alone(own: Path) -> None:
    drawn = []
    for noise, seed in ((0, 5), (1, 5), (0, 6)):
        torch.manual_seed(noise)  # what else was drawn in the process does not matter
        drawn.append([p.detach().clone() for p in add(load_backbone(own), "fresh", rank=16, seed=seed)])
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert 0.9 < torch.cat([p.flatten() for p in drawn[0][::2]]).std() * 16 < 1.1, "A ~ N(0, 1 / rank)"


def test_save_reads_it_back_in_a_new_process_bit_for_bit(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving_module, "TOLERANCE", 0.0)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "json.py").write_text("raise SystemExit('a file that lies about is no module')")
    monkeypatch.chdir(tmp_path / "cwd")
    backbone = load_backbone(own)
    trained(backbone, "mine", targets=("attention", "text"))
    signed = save(backbone, tmp_path / "a", name="mine", facts=FACTS)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {CONTRACT, WEIGHTS, "README.md"}
    assert not list(tmp_path.glob(".*")), "nothing is left aside"
    assert read(tmp_path / "a") == signed and signed.sha256 == sha256(tmp_path / "a" / WEIGHTS)


def test_what_a_new_process_does_not_confirm_is_not_kept(own: Path, saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "a")
    backbone = load_backbone(own)
    trained(backbone, "mine")
    backbone.unet.conv_in.bias.data += 0.5  # a change of the base that no adapter holds
    with pytest.raises(ValueError, match="answers otherwise in a new process"):
        save(backbone, folder, name="mine", facts=FACTS)
    assert [(folder / f).read_bytes() for f in (CONTRACT, WEIGHTS)] == [
        (saved[0] / f).read_bytes() for f in (CONTRACT, WEIGHTS)
    ]


@pytest.mark.parametrize(("model", "targets"), BOTH)
def test_save_and_load_is_bit_exact_and_scale_zero_is_the_base(
    model: str, targets: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = request.getfixturevalue(model)
    signed, answer = stored(base, tmp_path / "a", targets=targets)
    backbone = load_backbone(base)
    bare = backbone.probe()
    assert not torch.equal(answer, bare)
    load(backbone, tmp_path / "a")
    assert torch.equal(backbone.probe(), answer)
    assert backbone.adapters == {str(tmp_path / "a"): 1.0} and backbone.adapter_sha256 == (signed.sha256,)
    use(backbone, [f"{tmp_path / 'a'}:0"])
    assert torch.equal(backbone.probe(), bare)
    layers = [m for m in backbone.unet.modules() if isinstance(m, LoraLayer)]
    assert bool(layers) == (targets != "full") and not any(m.active_adapters for m in layers), "off, not times 0"
    use(backbone, [f"{tmp_path / 'a'}:0.5"])
    half = backbone.probe()
    assert not torch.equal(half, bare) and not torch.equal(half, answer)
    use(backbone, [])
    assert torch.equal(backbone.probe(), bare) and not backbone.adapters and not backbone.carried
    assert not [name for name, _ in backbone.unet.named_modules() if "lora" in name or "base_layer" in name]


def test_a_then_b_then_a_again_is_the_same_bit_for_bit(
    own: Path, saved: tuple[Path, torch.Tensor], other: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    _, of_whole = stored(own, whole, targets="full", seed=2)
    backbone = load_backbone(own)
    bare = backbone.probe()
    for folder, answer in (saved, other, saved, (whole, of_whole), saved, (None, bare), other):
        use(backbone, [folder] if folder else [])
        assert torch.equal(backbone.probe(), answer)


def test_two_adapters_add(own: Path, saved: tuple[Path, Any], other: tuple[Path, Any]) -> None:
    backbone = load_backbone(own, adapter=[f"{saved[0]}:0.7", f"{other[0]}:-0.4"])
    plain = load_backbone(own)
    weights = {"unet": dict(plain.unet.named_parameters()), "text_encoder": dict(plain.text.tower.named_parameters())}
    for folder, scale in ((saved[0], 0.7), (other[0], -0.4)):
        tensors = load_file(folder / WEIGHTS)
        for key in [key for key in tensors if ".lora_A." in key]:
            part, _, module = key.removesuffix(".lora_A.weight").partition(".")
            A, B = tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()
            weight = weights[part][f"{module}.weight"]
            weight.data += (2 * scale * B.flatten(1) @ A.flatten(1)).reshape(weight.shape).float()
    # float32 rounding of W x + s B (A x) against (W + s B A) x, through the network: 2e-6 was seen
    assert torch.allclose(backbone.probe(), plain.probe(), atol=1e-5)
    assert len(backbone.carried) == 2, "the same name twice is no conflict"


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
        rewrite(folder, sha256=sha256(folder / WEIGHTS))  # a contract that agrees, so that the next check speaks

    return apply


def _flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def _pickle(folder: Path, **how: Any) -> None:
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS, **how)
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


def _first(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state[min(state)].view(-1)[0] = value
        return state

    return change


# What cannot be overridden: it is no contract, no safetensors file, or does not fit.
HOPELESS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: rewrite(f, modality="xray"), "unknown modality"),
    (lambda f: rewrite(f, rank=0), "rank 0 must be above 0"),
    (lambda f: rewrite(f, rank=2.5), "must be a whole number"),
    (lambda f: rewrite(f, alpha=float("inf")), "must be above 0 and finite"),
    (lambda f: rewrite(f, name=5), "must be a line of text"),
    (lambda f: rewrite(f, name=""), "needs a name"),
    (lambda f: rewrite(f, base="mini\nrm -r x"), "must be a line of text"),
    (lambda f: rewrite(f, task="\x1b[2J"), "must be a line of text"),
    (lambda f: rewrite(f, licence="x" * 501), "at most 500"),
    (lambda f: rewrite(f, alpha=10**400), "must be above 0 and finite"),
    (lambda f: rewrite(f, rank=1025), "at most 1024"),
    (lambda f: rewrite(f, codec_scale=float("nan")), "codec_scale must be above 0"),
    (lambda f: rewrite(f, targets=["text:"]), "no module"),
    (lambda f: rewrite(f, targets=["full", "to_q"]), "no module"),
    (lambda f: rewrite(f, targets=[]), "needs a name"),
    (lambda f: rewrite(f, targets=None), "wrong type"),
    (lambda f: rewrite(f, kernel="cauchy"), "kernel 'cauchy' is unknown"),
    (lambda f: rewrite(f, kernel="pfgmpp:128"), "D is None, but its kernel is pfgmpp:128"),
    (lambda f: rewrite(f, D=64), "D is 64, but its kernel is gaussian"),
    (lambda f: rewrite(f, window=[1, 0]), "two rising numbers"),
    (lambda f: rewrite(f, images=-1), "images is -1"),
    (lambda f: rewrite(f, facts={"report": "No acute finding."}), "name of patient data"),
    (lambda f: rewrite(f, surprise=1), "does not know 'surprise'"),
    (lambda f: (f / CONTRACT).write_text("[" * 100_000), "is not JSON"),
    (lambda f: (f / CONTRACT).unlink(), "unknown adapter"),
    (lambda f: (f / CONTRACT).write_bytes(b" " * (2 << 20)), "unknown adapter"),
    (lambda f: ((f / CONTRACT).unlink(), os.mkfifo(f / CONTRACT)), "unknown adapter"),
    (lambda f: ((f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)), "has no pytorch_lora"),
    (lambda f: rewrite(f, targets=["no_such"]), "no module"),
    (lambda f: rewrite(f, targets=["attn1"]), "takes no LoRA"),
    (lambda f: rewrite(f, rank=3), r"is \(2, "),
    (_pickle, "is a pickle"),
    (lambda f: _pickle(f, _use_new_zipfile_serialization=False), "is a pickle"),
    (lambda f: (f / WEIGHTS).unlink(), "has no pytorch_lora"),
    (lambda f: (f / WEIGHTS).write_bytes(b"\x10" + bytes(7) + b"{half a header"), "not a safetensors file"),
    (_weights(_first(float("nan"))), "not finite"),
    (_weights(_first(1e30)), "above 1e4"),
    (_weights(lambda s: {k: v for i, (k, v) in enumerate(sorted(s.items())) if i % 2}), "lacks key"),
    (_weights(lambda s: {"transformer." + k: v for k, v in s.items()}), "must begin with"),
    (_weights(lambda s: s | {"unet.extra.lora_A.weight": torch.zeros(2, 2)}), "has the unknown key"),
    (_weights(lambda s: {k: v.long() for k, v in s.items()}), "floating-point"),
    (_weights(lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()}), "of 16 to 64 bits"),
    (_weights(lambda s: {k: v[0].clone() for k, v in s.items()}), "wants"),
    (
        lambda f: (_weights(lambda s: {k: v * 1e3 for k, v in s.items()})(f), rewrite(f, alpha=1e12)),
        "answer with values",
    ),
]
# What can, by an explicit word that every output then repeats.
DIFFERENT: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: rewrite(f, base_fingerprint="0" * 64), r"was made for tiny \(000000000000\), not for tiny"),
    (lambda f: rewrite(f, prediction="epsilon"), "made for prediction epsilon, but tiny has v_prediction"),
    (lambda f: rewrite(f, codec="AutoencoderKL"), "made for codec AutoencoderKL, but tiny has AutoencoderDC"),
    (lambda f: rewrite(f, codec_scale=0.18215), "made for codec scale 0.18215, but tiny has 0.8"),
    (lambda f: rewrite(f, text_encoder="transformers.CLIPTextModel"), "tiny has open_clip.CLIP"),
    (lambda f: rewrite(f, max_tokens=77), "made for max tokens 77, but tiny has 24"),
    (lambda f: rewrite(f, chunks=1), "made for chunks 1, but tiny has 4"),
    (lambda f: rewrite(f, alpha=9.0), "weights made for unet.lora_alpha 4, but its contract says 9"),
    (lambda f: rewrite(f, size=512), "made for size 512, but tiny has 32"),
    (lambda f: rewrite(f, modality="pet"), "is for PET, which tiny does not make"),
    (_flip, "sha256 differs"),
    (_weights(lambda s: {k: torch.zeros_like(v) for k, v in s.items()}), "changes nothing"),
]


@pytest.mark.parametrize(("harm", "said"), [*HOPELESS, *DIFFERENT])
def test_a_damaged_or_foreign_adapter_is_refused(
    shared: Backbone, saved: tuple[Path, Any], tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "a")
    harm(folder)
    before = shared.probe()
    with pytest.raises(ValueError, match=said):
        load(shared, folder)
    assert torch.equal(shared.probe(), before) and not shared.carried, "a refused one leaves no trace"


@pytest.mark.parametrize(("harm", "said"), DIFFERENT)
def test_force_takes_a_different_one_and_every_output_will_say_so(
    shared: Backbone, saved: tuple[Path, Any], tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    backbone, folder = shared, shutil.copytree(saved[0], tmp_path / "a")
    harm(folder)
    use(backbone, [folder], force=True)
    assert len(backbone.forced) == 1 and backbone.forced[0].startswith("adapter test-lora")
    with pytest.raises(ValueError, match=said):  # the same words as of the refusal
        raise ValueError(backbone.forced[0])
    assert backbone.adapter_sha256 == (sha256(folder / WEIGHTS),), "of the file that was read, whatever was promised"
    assert plan(backbone, "Chest radiograph.").notes[-1] == f"overridden: {backbone.forced[0]}"
    use(backbone, [])
    assert backbone.forced == ()


@pytest.mark.parametrize("harm", [_pickle, _weights(_first(float("nan"))), lambda f: rewrite(f, rank=3)])
def test_force_does_not_take_what_is_dangerous_or_does_not_fit(
    shared: Backbone, saved: tuple[Path, Any], tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "a")
    harm(folder)
    with pytest.raises(ValueError):
        load(shared, folder, force=True)
    assert not shared.carried


def test_another_base_of_the_same_shape_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was made for tiny"):
        load(load_backbone(build_own(tmp_path / "other", seed=1)), saved[0])


def test_a_failed_use_leaves_what_was_there(own: Path, saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    bad = shutil.copytree(saved[0], tmp_path / "bad")
    _flip(bad)
    backbone = load_backbone(own, adapter=f"{saved[0]}:1")
    with pytest.raises(ValueError, match="sha256"):
        use(backbone, [saved[0], bad])
    assert torch.equal(backbone.probe(), saved[1]) and backbone.adapters == {str(saved[0]): 1.0}


def test_its_kernel_becomes_the_default(own: Path, saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "b")
    rewrite(folder, kernel="pfgmpp:128", D=128)
    backbone = load_backbone(own, adapter=folder)
    assert plan(backbone, "Chest radiograph.").kernel.name == "pfgmpp:128"
    assert plan(backbone, "Chest radiograph.").notes == ()
    assert "trained under pfgmpp:128" in plan(backbone, "Chest radiograph.", kernel_name="gaussian").notes[0]
    assert any("adapter was trained on" in note for note in plan(backbone, "Brain MRI.").notes)
    use(backbone, [])
    assert backbone.kernel == "gaussian" and backbone.modalities == ()
    with pytest.raises(ValueError, match="twice"):
        load_backbone(own, adapter=[folder, folder])


def test_kernels_and_windows_do_not_mix(own: Path, saved: tuple[Path, Any], tmp_path: Path) -> None:
    narrow, wide, heavy = (shutil.copytree(saved[0], tmp_path / name) for name in ("narrow", "wide", "heavy"))
    rewrite(heavy, kernel="pfgmpp:128", D=128)
    rewrite(narrow, modality="ct", window=[-150.0, 250.0])
    rewrite(wide, modality="ct", window=[-1350.0, 150.0])
    with pytest.raises(ValueError, match="use one kernel"):
        load_backbone(own, adapter=[saved[0], heavy])
    with pytest.raises(ValueError, match="use one window"):
        load_backbone(own, adapter=[narrow, wide])
    backbone = load_backbone(own, adapter=[saved[0], narrow])
    assert backbone.windows == {"ct": (-150.0, 250.0)}
    with pytest.raises(ValueError, match="use one kernel"):
        load(backbone, heavy)
    assert len(backbone.carried) == 2


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9", "-11", "١٢"])
def test_scales_must_be_numbers(shared: Backbone, saved: tuple[Path, Any], scale: str) -> None:
    with pytest.raises(ValueError, match=r"scale .*: give a number from -10 to 10"):
        use(shared, [f"{saved[0]}:{scale}"])


@pytest.mark.parametrize("spec", ["", ":0.8", " :1", ":"])
def test_an_adapter_must_be_named(shared: Backbone, spec: str) -> None:
    with pytest.raises(ValueError, match="names no folder"):
        use(shared, [spec])


def test_folders_of_any_name(
    shared: Backbone, saved: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run:0.5", "肺 v1.2", "1:2:b"):
        shutil.copytree(saved[0], tmp_path / name)
        for spec, meant in ((name, 1.0), (Path(name), 1.0), (f"{name}:1", 1.0), (f"{tmp_path / name}:0.25", 0.25)):
            assert [(place.resolve(), scale) for place, scale in named([spec])] == [(tmp_path / name, meant)]
    use(shared, ["run:0.5"])
    assert torch.equal(shared.probe(), saved[1]) and shared.adapters == {"run:0.5": 1.0}
    shutil.copytree(saved[0], tmp_path / "run")
    use(shared, ["run:0.5"])
    assert shared.adapters == {"run": 0.5}, "there is an adapter run, so that the number is a scale"
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ValueError, match="given twice"):
        use(shared, ["run", "link:0.5"])
    with pytest.raises(ValueError, match="is on tiny already"):
        load(shared, tmp_path / "link")
    use(shared, [])


def test_one_that_came_with_vlgen_goes_by_its_name(
    shared: Backbone, saved: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files do not say where on this machine vlgen is installed, and the name finds it anywhere."""
    monkeypatch.setattr(loading_module, "beside", lambda name: tmp_path / "site-packages" / name)
    shutil.copytree(saved[0], tmp_path / "site-packages" / "adapters" / "cxr-own")
    (tmp_path / "here" / "cxr-own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    use(shared, ["cxr-own:0.5"])
    assert shared.adapters == {"cxr-own": 0.5}, "a folder of that name without a contract is no adapter"
    use(shared, [])


def test_files_may_be_links_as_in_the_hubs_cache(
    shared: Backbone, saved: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "snapshot").mkdir()
    for file in (CONTRACT, WEIGHTS):
        (tmp_path / "snapshot" / file).symlink_to(saved[0] / file)
    use(shared, [tmp_path / "snapshot"])
    assert torch.equal(shared.probe(), saved[1])
    use(shared, [])


@pytest.mark.parametrize("name", ["train", "base_layer", "lora_A", "肺.0/b"])
def test_adapters_of_any_name(own: Path, tmp_path: Path, name: str) -> None:
    """Names that PyTorch's modules or LoRA's own keys use themselves, or that no module may have."""
    _, answer = stored(own, tmp_path / "a", name=name)
    assert torch.equal(answered(own, tmp_path / "a"), answer)
    assert read(tmp_path / "a").name == name


def test_a_folder_of_something_else_is_left_alone(own: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("My project.")
    with pytest.raises(ValueError, match=r"holds a README.md and no adapter"):
        stored(own, tmp_path / "project")
    assert [file.name for file in (tmp_path / "project").iterdir()] == ["README.md"]
    (tmp_path / "empty").mkdir()
    left = tmp_path / f".empty.{os.getpid()}.part"  # by a killed process of the same number, as containers have them
    left.mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    stored(own, tmp_path / "link")
    (tmp_path / "empty" / CONTRACT).unlink()  # as a kill just before its last file leaves it
    stored(own, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / CONTRACT).is_file()
    assert {file.name for file in tmp_path.iterdir()} == {"project", "empty", "link", left.name}


def test_an_image_of_scale_zero_is_the_bases(own: Path, saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Its kernel, window and modality are no more there than its weights."""
    folder = shutil.copytree(saved[0], tmp_path / "a")
    rewrite(folder, kernel="pfgmpp:128", D=128, modality="ct", window=[-150.0, 250.0])
    text, bare = "Chest CT.", load_backbone(own)
    none = load_backbone(own, adapter=f"{folder}:0")
    assert none.kernel == "gaussian" and not none.windows and not none.modalities
    first, second = generate(bare, text, seeds=[0]), generate(none, text, seeds=[0])
    assert torch.equal(first.pixels, second.pixels) and first.modality == second.modality
    assert second.provenance[0]["adapters"] == {str(folder): 0.0}, "but it is said that it was given"
    load(none, saved[0])
    assert none.kernel == "gaussian", "and its kernel is in nobody's way"


def test_images_are_in_the_adapters_window_and_modality(own: Path, saved: tuple[Path, Any], tmp_path: Path) -> None:
    narrow, new = (shutil.copytree(saved[0], tmp_path / name) for name in ("narrow", "new"))
    rewrite(narrow, modality="ct", window=[-150.0, 250.0])
    rewrite(new, modality="pet", new_modality=True)
    images = generate(load_backbone(own, adapter=narrow), "Chest CT.", seeds=[0])
    wide = generate(load_backbone(own, adapter=saved[0]), "Chest CT.", seeds=[0])
    assert images.modality.window == (-150.0, 250.0) and wide.modality.window == (-1000.0, 500.0)
    assert torch.allclose((images.pixels + 150) / 400, (wide.pixels + 1000) / 1500, atol=1e-5), "the same in [0, 1]"
    assert info(write(images, tmp_path)[0])["window"] == [-150.0, 250.0]
    assert generate(load_backbone(own, adapter=new), "FDG PET.", seeds=[0]).modality.name == "pet"
    with pytest.raises(ValueError, match="asks for PET"):
        generate(load_backbone(own), "FDG PET.", seeds=[0])


def test_every_file_names_the_adapters_and_what_was_forced(
    own: Path, saved: tuple[Path, Any], other: tuple[Path, Any], tmp_path: Path
) -> None:
    foreign = shutil.copytree(other[0], tmp_path / "foreign")
    rewrite(foreign, chunks=1)
    specs = [f"{saved[0]}:0.5", foreign]
    images = generate(load_backbone(own, adapter=specs, force_adapter=True), "Chest radiograph.", seeds=[0])
    assert len({repr(info(write(images, tmp_path / format, format=format)[0])) for format in ENDINGS}) == 1
    found = info(write(images, tmp_path / "out")[0])
    assert found["adapters"] == {str(saved[0]): 0.5, str(foreign): 1.0}
    assert found["adapter_sha256"] == [sha256(saved[0] / WEIGHTS), sha256(foreign / WEIGHTS)]
    assert found["adapter_forced"] == ["adapter test-lora was made for chunks 1, but tiny has 4"]
    assert "--force-adapter" in again(found) and f"{saved[0]}:0.5" in again(found)
    assert "--force-adapter" not in again(found | {"adapter_forced": []})


def test_the_contract_says_all_that_it_must_and_round_trips(own: Path, tmp_path: Path) -> None:
    facts = {
        **FACTS,
        "kernel": "pfgmpp:128",
        "modality": "ct",
        "body_part": "chest",
        "window": (-1350, 150),
        "patients": 7,
        "data_sha256": "ab" * 32,
        "audit": {"memorized": 0, "said": "No copy was found."},
        "learning_rate": 1e-4,
    }
    signed, _ = stored(own, tmp_path / "a", facts=facts)
    assert json.loads((tmp_path / "a" / CONTRACT).read_text()) == json.loads(json.dumps(asdict(signed)))
    assert read(tmp_path / "a") == signed
    base = load_backbone(own)
    assert (signed.base, signed.base_fingerprint, signed.size) == ("tiny", base.fingerprint, 32)
    assert (signed.codec, signed.codec_scale, signed.prediction) == ("AutoencoderDC", 0.8, "v_prediction")
    assert (signed.text_encoder, signed.max_tokens, signed.chunks) == ("open_clip.CLIP", 24, 4)
    assert (signed.kernel, signed.D, signed.window) == ("pfgmpp:128", 128.0, (-1350.0, 150.0))
    assert (signed.rank, signed.alpha, signed.targets) == (2, 4.0, ("to_q", "to_k", "to_v", "to_out.0"))
    assert (signed.steps, signed.images, signed.patients, signed.licence) == (3, 12, 7, "CC BY 4.0")
    assert signed.facts == {"learning_rate": 1e-4} and set(signed.versions) >= {"vlgen", "torch", "peft"}
    assert str(tmp_path) not in (tmp_path / "a" / CONTRACT).read_text()


def test_an_adapter_may_bring_a_modality(own: Path, tmp_path: Path) -> None:
    signed, answer = stored(own, tmp_path / "a", facts={"modality": "pet", "steps": 1})
    assert signed.new_modality
    assert torch.equal(answered(own, tmp_path / "a"), answer)


@pytest.mark.parametrize(
    "facts",
    [
        {"note": "Heart size normal. " * 40},
        {"caption": "Small effusion of Jane Roe."},
        {"audit": {"nearest": [{"patient_id": "Jane Roe"}]}},
        {"rows": {"Jane Roe " * 80: 1}},
        {"loss": float("nan")},
        {"model": torch.zeros(1)},
    ],
)
def test_no_text_of_patients_gets_into_a_contract(own: Path, tmp_path: Path, facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        stored(own, tmp_path / "a", facts=facts)
    assert "Roe" not in str(refused.value) and "Heart" not in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_weights_that_are_not_finite_are_not_saved(own: Path, tmp_path: Path) -> None:
    backbone = load_backbone(own)
    add(backbone, "mine", rank=2)[0].data.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        save(backbone, tmp_path / "a", name="mine", facts={})
    with pytest.raises(ValueError, match="no adapter called 'yours'"):
        save(backbone, tmp_path / "a", name="yours", facts={})
    with pytest.raises(ValueError, match="already"):
        add(backbone, "mine")


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"unet.m{i}.lora_A.weight": torch.full((2, 3), float(i)) for i in range(5)}
    metadata = {name: name * 3 for name in "abcdefgh"}  # safetensors' own order of these differs from call to call
    files = {pack(tensors, dict(sorted(metadata.items(), reverse=bool(i % 2)))) for i in range(20)}
    assert len(files) == 1
    # Lengths of the header whose bytes are the marks of pickles: 0x80, and "PK".
    for mark in (b"\x80", b"PK"):
        for longer in range(0, 20_000, 8):
            data = pack(tensors, {"a": "x" * longer})
            if data.startswith(mark):
                break
        (tmp_path / "a").write_bytes(data)
        found, said = unpack(tmp_path / "a")
        assert all(torch.equal(found[name], tensors[name]) for name in tensors) and set(said) == {"a", "format"}
