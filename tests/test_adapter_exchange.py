"""Adapters of other programs: diffusers and PEFT read ours and answer the same, and theirs come in without a change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import answered, bare, rewrite, stored, trained
from conftest import build_own
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vlgen.adapter import CONTRACT, FORMATS, WEIGHTS, export, import_, load, read
from vlgen.adapter.foreign import PEFT_CONFIG, PEFT_WEIGHTS
from vlgen.adapter.targets import modules
from vlgen.backbone import Backbone
from vlgen.backbone import load as load_backbone

# float32; networks laid out alike agree bit for bit, and most of these do.
CLOSE = 1e-6
# float64, where summing in another order is no matter: in float32 the bare networks themselves are 1.2e-6 apart, since
# ours lays out its convolutions channels last and diffusers does not; with both laid out alike they agree bit for bit.
EXACT = 1e-12


@pytest.fixture(scope="module")
def shelf(own: Path, stable: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Adapters for each model: of its attention, and of all that takes LoRA, its text tower too."""
    folder = tmp_path_factory.mktemp("shelf")
    found = {}
    for model, base in (("own", own), ("stable", stable)):
        for name, targets in (("attention", "attention"), ("all", ("wide", "text"))):
            found[model, name] = folder / f"{model}-{name}"
            stored(base, found[model, name], targets=targets)
    return found


@pytest.fixture(scope="module")
def shared(own: Path) -> Backbone:
    """A backbone for files that are refused, or only looked at."""
    return bare(own)


@pytest.fixture
def pipeline(stable: Path) -> Iterator[Any]:
    """diffusers' own pipeline on the folder of build_stable."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizerFast

    yield StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(stable / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(stable / "text_encoder"),
        tokenizer=CLIPTokenizerFast.from_pretrained(stable / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(stable / "unet"),
        scheduler=DDIMScheduler.from_pretrained(stable / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def answers(unet: Any, tower: Any) -> torch.Tensor:
    """The noise that a UNet predicts in float64 for a fixed latent and fixed tokens, through its text tower."""
    unet, tower = unet.double(), tower.double()
    generator = torch.Generator().manual_seed(3)
    states = tower(torch.tensor([[0, 40, 41, 42, 1]])).last_hidden_state
    z = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    return unet(z, torch.tensor([500]), encoder_hidden_states=states).sample


def test_a_plain_diffusers_unet_loads_ours_and_predicts_the_same(own: Path, shelf: dict[tuple[str, str], Path]) -> None:
    """The file's header says alpha, without which diffusers would take it for the rank: half the effect here."""
    ours = load_backbone(own)
    load(ours, shelf["own", "all"])
    theirs = load_backbone(own)
    theirs.text.tower = ours.text.tower  # no pipeline of diffusers knows open_clip's tower
    theirs.unet.load_lora_adapter(shelf["own", "all"], weight_name=WEIGHTS, prefix="unet")
    assert torch.allclose(theirs.probe(), ours.probe(), rtol=0, atol=CLOSE)
    assert not torch.allclose(load_backbone(own).probe(), ours.probe(), atol=1e-2)


@pytest.mark.parametrize("to", ["ours", "diffusers", "kohya"])
def test_a_plain_pipeline_loads_it_and_predicts_the_same(
    stable: Path, shelf: dict[tuple[str, str], Path], pipeline: Any, tmp_path: Path, to: str
) -> None:
    ours = load_backbone(stable, adapter=shelf["stable", "all"])
    folder = shelf["stable", "all"]
    file = folder / WEIGHTS if to == "ours" else export(folder, to, tmp_path)
    bare = answers(pipeline.unet, pipeline.text_encoder)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    found = answers(pipeline.unet, pipeline.text_encoder)
    assert torch.allclose(found, answers(ours.unet, ours.text.tower), rtol=0, atol=EXACT)
    assert not torch.allclose(found, bare, atol=1e-2)


@pytest.mark.parametrize("model", ["own", "stable"])
def test_peft_loads_it_and_answers_the_same(
    model: str, shelf: dict[tuple[str, str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel

    base = request.getfixturevalue(model)
    export(shelf[model, "all"], "peft", tmp_path / "out")
    theirs = load_backbone(base)
    theirs.unet = PeftModel.from_pretrained(theirs.unet, tmp_path / "out").base_model.model
    PeftModel.from_pretrained(theirs.text.tower, tmp_path / "out" / "text_encoder")
    ours = answered(base, shelf[model, "all"])
    assert torch.allclose(theirs.probe(), ours, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("key", [("own", "all"), ("stable", "all")])
def test_out_and_back_in_is_the_same_bytes(
    key: tuple[str, str], to: str, shelf: dict[tuple[str, str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    backbone = load_backbone(request.getfixturevalue(key[0]))
    bare = backbone.probe()
    out = export(shelf[key], to, tmp_path / "out")
    found = import_(out, backbone, tmp_path / "back")
    assert found == read(shelf[key])
    for name in (CONTRACT, WEIGHTS, "README.md"):
        assert (tmp_path / "back" / name).read_bytes() == (shelf[key] / name).read_bytes()
    assert torch.equal(backbone.probe(), bare) and not backbone.carried, "the backbone only looked at it"


def test_alpha_survives_the_rounding_of_kohyas_files(own: Path, tmp_path: Path) -> None:
    from vlgen.adapter import add, save

    backbone = load_backbone(own)
    for parameter in add(backbone, "mine", rank=2, alpha=0.1):
        torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    signed = save(backbone, tmp_path / "a", name="mine", facts={}, fresh=False)
    found = import_(export(tmp_path / "a", "kohya", tmp_path / "out"), bare(own), tmp_path / "b")
    assert found == signed and found.alpha == 0.1


def _theirs(backbone: Backbone, rank: int = 3, alpha: int = 5) -> None:
    """An adapter as diffusers' own training script makes it."""
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["to_q", "to_out.0", "ff.net.2"])
    backbone.unet.add_adapter(config, adapter_name="default")
    generator = torch.Generator().manual_seed(4)
    for name, parameter in backbone.unet.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)


def test_what_diffusers_saved_comes_in(own: Path, tmp_path: Path) -> None:
    """In diffusers' layout, with and without the header that says alpha."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    theirs = load_backbone(own)
    _theirs(theirs)
    layers = get_peft_model_state_dict(theirs.unet)
    facts = {r: v for r, v in (("r", 3), ("lora_alpha", 5), ("target_modules", ["to_q", "to_out.0", "ff.net.2"]))}
    StableDiffusionPipeline.save_lora_weights(tmp_path / "a", layers, unet_lora_adapter_metadata=facts)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "b", layers)
    found = import_(tmp_path / "a", bare(own), tmp_path / "ours", name="mine", facts={"licence": "MIT"})
    assert (found.rank, found.alpha, found.steps) == (3, 5.0, 0)
    assert (found.name, found.licence, found.facts) == ("mine", "MIT", {"imported_from": "diffusers"})
    assert torch.equal(answered(own, tmp_path / "ours"), theirs.probe())
    assert import_(tmp_path / "b", bare(own), tmp_path / "plain").alpha == 3.0, "as diffusers would read it"
    members = modules(theirs, found.targets)["unet"]
    assert len(members) == len(layers) // 2


# Of each module its own rank and alpha, by PEFT's patterns: the first key that ends a module's name counts.
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"attn2.to_k": 2, "mid_block.*.conv1": 5},
    "alpha_pattern": {r"down_blocks\..*\.to_k": 1, "to_k": 3},
}


@pytest.mark.parametrize(
    ("saved_by", "more"),
    [
        ("peft", {}),
        ("peft", {**PATTERNS, "use_rslora": True}),
        ("diffusers", {"use_rslora": True}),
        ("diffusers", PATTERNS),
    ],
)
def test_what_peft_and_diffusers_saved_comes_in(
    own: Path, shared: Backbone, tmp_path: Path, more: dict[str, Any], saved_by: str
) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    theirs = load_backbone(own)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_k", "conv1"], **more)
    if saved_by == "peft":
        model = get_peft_model(theirs.unet, config)
    else:
        theirs.unet.add_adapter(config)
        model = theirs.unet
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)
    if saved_by == "peft":
        model.save_pretrained(tmp_path / "a")
    else:
        said = {"r": 4, "lora_alpha": 6, "target_modules": ["to_k", "conv1"], **more}
        layers = get_peft_model_state_dict(model)
        StableDiffusionPipeline.save_lora_weights(tmp_path / "a", layers, unet_lora_adapter_metadata=said)
    found = import_(tmp_path / "a", shared, tmp_path / "ours")
    leveled = (5, 5.0) if more.get("rank_pattern") else (4, 12.0 if more else 6.0)
    assert (found.rank, found.alpha) == leveled and set(found.targets) == {"to_k", "conv1"}
    ours = answered(own, tmp_path / "ours")
    assert torch.allclose(ours, theirs.probe(), rtol=0, atol=CLOSE)


def test_kohyas_files_of_mixed_ranks_and_alphas_come_in_exactly(stable: Path, pipeline: Any, tmp_path: Path) -> None:
    """As LoCon files are: other ranks for convolutions than for attention, half precision, some modules left out."""
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, torch.Tensor] = {}

    def put(stem: str, weight: torch.Tensor, rank: int, alpha: float) -> None:
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.3
        up = torch.randn(len(weight), rank, *(1 for _ in weight.shape[2:]), generator=generator) * 0.3
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = down.half(), up.half()
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)

    for name, weight in pipeline.unet.named_parameters():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and (module.endswith("attn2.to_q") or ("up_blocks" in module and module.endswith("conv2"))):
            put("lora_unet_" + module.replace(".", "_"), weight, *((2, 1.0) if "conv2" in module else (4, 8.0)))
    for end in ("q_proj", "out_proj"):
        weight = pipeline.text_encoder.get_parameter(f"encoder.layers.0.self_attn.{end}.weight")
        put(f"lora_te_text_model_encoder_layers_0_self_attn_{end}", weight, 3, 3.0)
    save_file(tensors, tmp_path / "locon.safetensors")
    found = import_(tmp_path / "locon.safetensors", load_backbone(stable), tmp_path / "ours")
    assert found.rank == 4 and found.alpha == 4.0
    ours = load_backbone(stable, adapter=tmp_path / "ours")
    pipeline.load_lora_weights(str(tmp_path), weight_name="locon.safetensors", local_files_only=True)
    theirs = answers(pipeline.unet, pipeline.text_encoder)
    assert torch.allclose(answers(ours.unet, ours.text.tower), theirs, rtol=0, atol=EXACT)


def _spoil(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    first = min(key for key in tensors if key.endswith(".lora_down.weight"))
    if how == "another model":
        return {key.replace("down_blocks", "input_blocks"): value for key, value in tensors.items()}
    if how == "half":
        return {key: value for key, value in tensors.items() if key != first}
    if how == "dora":
        return tensors | {first.replace("lora_down.weight", "dora_scale"): torch.ones(1)}
    if how == "vector":
        return tensors | {first: tensors[first][0].clone()}
    if how == "rank 0":
        return tensors | {first: tensors[first][:0].clone()}
    if how == "alphas":
        return tensors | {first.replace("lora_down.weight", "alpha"): torch.ones(2)}
    if how == "alpha 0":
        return {key: value * (".alpha" not in key) for key, value in tensors.items()}
    if how == "shape":
        return tensors | {first: tensors[first][:, :-1].contiguous()}
    if how == "nan":
        return tensors | {first: tensors[first] * float("nan")}
    return {key: value * (".alpha" in key) for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("another model", "means no module of tiny"),
        ("half", "one matrix of two"),
        ("dora", "means no module of tiny"),
        ("shape", "wants"),
        ("vector", "no pair"),
        ("rank 0", "no pair"),
        ("alphas", "must hold one"),
        ("alpha 0", "alpha 0.0 must be above 0"),
        ("nan", "not finite"),
        ("zeros", "changes nothing"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    shared: Backbone, shelf: dict[tuple[str, str], Path], tmp_path: Path, how: str, said: str
) -> None:
    file = export(shelf["own", "attention"], "kohya", tmp_path / "out" / "any name.safetensors")
    assert file == tmp_path / "out" / "any name.safetensors"
    save_file(_spoil(load_file(file), how), file)
    with pytest.raises(ValueError, match=said):
        import_(file, shared, tmp_path / "back")
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".*"))


def test_what_no_format_can_say_is_refused(own: Path, shelf: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    backbone = load_backbone(own)
    with pytest.raises(ValueError, match="choose of diffusers, peft, kohya"):
        export(shelf["own", "attention"], "gguf", tmp_path / "out")
    with pytest.raises(ValueError, match="the adapter itself"):
        export(shelf["own", "attention"], "diffusers", shelf["own", "attention"])
    torch.save({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        import_(tmp_path / "lora.safetensors", backbone, tmp_path / "back")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        import_(tmp_path / "pipe.safetensors", backbone, tmp_path / "back")
    out = export(shelf["own", "attention"], "peft", tmp_path / "peft")
    (out / PEFT_WEIGHTS).rename(out / "adapter_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        import_(out, backbone, tmp_path / "back")
    for more, said in (
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "PEFT's LOHA"),
        ({"r": None}, "cannot be read"),
    ):
        (out / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | more))
        with pytest.raises(ValueError, match=said):
            import_(out, backbone, tmp_path / "back")
    (out / "adapter_model.bin").rename(out / PEFT_WEIGHTS)
    for more, said in (({"lora_alpha": "2"}, "no number"), ({"alpha_pattern": {"(": 1}}, "no regular expression")):
        (out / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | more))
        with pytest.raises(ValueError, match=said):
            import_(out, backbone, tmp_path / "back")
    broken = shutil.copytree(shelf["own", "attention"], tmp_path / "broken")
    rewrite(broken, sha256="0" * 64)
    with pytest.raises(ValueError, match="sha256 differs"):
        export(broken, "kohya", tmp_path / "out")


def test_an_exported_file_keeps_to_its_base(own: Path, shelf: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    other = load_backbone(build_own(tmp_path / "other", seed=1))
    file = export(shelf["own", "attention"], "kohya", tmp_path / "out")
    with pytest.raises(ValueError, match="was made for tiny"):
        import_(file, other, tmp_path / "back")
    found = import_(file, other, tmp_path / "back", force=True)
    assert "was made for tiny" in found.facts["forced"][0] and found.base_fingerprint == other.fingerprint
    load(other, tmp_path / "back")
    assert "was made for tiny" in other.forced[0], "what is made with it says so for good"


def test_an_exported_file_keeps_its_weights(own: Path, shared: Backbone, tmp_path: Path) -> None:
    """The contract in its header, with an audit, is of the weights that it was written for."""
    stored(own, tmp_path / "a", facts={"audit": {"ratio": 1.0}, "modality": "cxr"})
    file = export(tmp_path / "a", "kohya", tmp_path / "out")
    assert import_(file, shared, tmp_path / "same").audit == {"ratio": 1.0}
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = min(name for name in tensors if name.endswith("up.weight"))
    save_file(tensors | {name: tensors[name] * 1.001}, file, metadata)
    with pytest.raises(ValueError, match="sha256 differs"):
        import_(file, shared, tmp_path / "back")
    found = import_(file, shared, tmp_path / "back", force=True)
    assert found.audit == {} and "sha256 differs" in found.facts["forced"][0]


def test_force_takes_one_of_a_modality_that_the_base_lacks(own: Path, shared: Backbone, tmp_path: Path) -> None:
    base = shutil.copytree(own, tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index["vlgen"]["card"]["modalities"].append("pet")
    (base / "model_index.json").write_text(json.dumps(index))
    signed, _ = stored(base, tmp_path / "a", facts={"modality": "pet"})
    assert not signed.new_modality
    file = export(tmp_path / "a", "diffusers", tmp_path / "out")
    with pytest.raises(ValueError, match="is for PET, which tiny does not make"):
        import_(file, shared, tmp_path / "back")
    assert import_(file, shared, tmp_path / "back", force=True).new_modality


def test_peft_finds_single_modules_of_open_clips_tower(own: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    stored(own, tmp_path / "a", targets=("to_q", "text:transformer.resblocks.0.mlp.c_fc"))
    export(tmp_path / "a", "peft", tmp_path / "out")
    theirs = load_backbone(own)
    theirs.unet = PeftModel.from_pretrained(theirs.unet, tmp_path / "out").base_model.model
    PeftModel.from_pretrained(theirs.text.tower, tmp_path / "out" / "text_encoder")
    ours = answered(own, tmp_path / "a")
    assert torch.allclose(theirs.probe(), ours, rtol=0, atol=CLOSE)


def test_a_full_fine_tune_is_refused_by_plain_lora_loaders(stable: Path, pipeline: Any, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    stored(stable, tmp_path / "a", targets="full")
    with pytest.raises(ValueError, match="full fine-tune"):
        export(tmp_path / "a", "diffusers", tmp_path / "out")
    with pytest.raises(OSError):
        pipeline.load_lora_weights(str(tmp_path / "a"), weight_name=WEIGHTS, local_files_only=True)
    whole = tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(Exception):  # noqa: B017  diffusers raises what its inference of a config stumbles on
        pipeline.unet.load_lora_adapter(str(whole), prefix=None)
    ours = load_backbone(stable, adapter=tmp_path / "a")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "a", subfolder="unet")
    theirs = answers(unet, ours.text.tower)
    assert torch.allclose(theirs, answers(ours.unet, ours.text.tower), rtol=0, atol=EXACT)


@pytest.mark.parametrize("target", ["attn", "out_proj"])
def test_the_packed_attention_of_open_clip_is_refused_and_rightly(own: Path, target: str) -> None:
    """peft takes both. One has no effect at all; the other moves the base by rounding at every call."""
    from peft import LoraConfig, inject_adapter_in_model

    with pytest.raises(ValueError, match="takes no LoRA"):
        trained(load_backbone(own), "mine", targets=("to_q", f"text:{target}"))
    backbone = load_backbone(own)
    bare = backbone.probe()
    attention = backbone.text.tower.transformer.resblocks[0].attn
    weight = attention.in_proj_weight.detach().clone()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=[target]), backbone.text.tower.transformer)
    for name, parameter in backbone.text.tower.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    if target == "out_proj":
        assert torch.equal(backbone.probe(), bare)
    else:
        assert not torch.equal(backbone.probe(), bare)
        assert not torch.equal(attention.in_proj_weight, weight)
