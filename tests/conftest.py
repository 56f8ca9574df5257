"""Real classes at tiny size, saved to folders and loaded back: no mocks, no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
torch.set_num_threads(2)

SENTENCES = (
    "PA chest radiograph. No acute finding.",
    "AP chest radiograph. Large left pleural effusion. No pneumothorax.",
    "Brain MRI. Findings: glioma.",
    "Brain MRI. No tumor.",
    "Breast ultrasound. Malignant mass.",
    "Axial chest CT with contrast.",
)
DC = {
    "in_channels": 1,
    "latent_channels": 4,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [4, 8, 8],
    "decoder_block_out_channels": [4, 8, 8],
    "encoder_layers_per_block": [0, 1, 1],
    "decoder_layers_per_block": [0, 1, 1],
    "encoder_qkv_multiscales": [[], [], []],
    "decoder_qkv_multiscales": [[], [], []],
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 64},
    "text_cfg": {"context_length": 24, "width": 16, "heads": 2, "layers": 1},
}


def words(begin: str, end: str, pad: str):
    """A byte-level BPE tokenizer of a few hundred tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    found = Tokenizer(models.BPE())
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = list(dict.fromkeys([pad, begin, end]))
    found.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=320, special_tokens=marks, initial_alphabet=alphabet, show_progress=False),
    )
    return found


def build_own(folder: Path, *, seed: int = 0) -> Path:
    """A folder as `vlgen pretrain` writes it: AutoencoderDC, open_clip's CLIP, a UNet that reads pooled text too."""
    from diffusers import AutoencoderDC, DDPMScheduler, UNet2DConditionModel
    from open_clip.model import CLIP as OpenClip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    AutoencoderDC.from_config({**DC, "scaling_factor": 0.8}).save_pretrained(folder / "vae")
    unet = UNet2DConditionModel(
        **UNET, cross_attention_dim=16, class_embed_type="projection", projection_class_embeddings_input_dim=16
    )
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    tokenizer = words("<begin>", "<end>", "<pad>")
    size = tokenizer.get_vocab_size()
    text = CLIP["text_cfg"] | {"vocab_size": size, "pad_id": 0, "eos_id": 2, "pool_type": "eos"}
    clip = OpenClip(CLIP["embed_dim"], CLIPVisionCfg(**CLIP["vision_cfg"]), CLIPTextCfg(**text))
    (folder / "text_encoder").mkdir(parents=True)
    save_file(clip.state_dict(), folder / "text_encoder" / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP | {"text_cfg": text}}
    (folder / "text_encoder" / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "text_encoder" / "tokenizer.json"))
    own = {
        "name": "tiny",
        "size": 32,
        "defaults": {"steps": 3, "guidance_scale": 2.0, "sigma_min": 0.02, "sigma_max": 80.0},
        "card": {"modalities": ["cxr", "mri", "us", "ct"]},
    }
    (folder / "model_index.json").write_text(json.dumps({"vlgen": own}))
    return folder


def build_stable(folder: Path, *, prediction: str = "epsilon") -> Path:
    """A folder as Stable Diffusion's: AutoencoderKL of three channels, transformers' CLIPTextModel, scaled_linear."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(1)
    AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(**UNET, cross_attention_dim=16).save_pretrained(folder / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    backend = words("<|startoftext|>", "<|endoftext|>", "<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=24,
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=backend.get_vocab_size(),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stable(tmp_path_factory.mktemp("stable"))
