"""Backbone: the sigma view of real networks, equal to what diffusers' own schedulers and pipelines compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import build_stable

from vlgen.backbone import load
from vlgen.folder import part, table
from vlgen.solvers import euler
from vlgen.tensors import normal
from vlgen.text import join

TEXT = "AP chest radiograph. Large left pleural effusion."


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_euler_on_a_stable_diffusion_folder_is_diffusers_ddim(tmp_path: Path, prediction: str) -> None:
    """The whole path: text states, timesteps by inverting the table, scaling, prediction type."""
    from diffusers import DDIMScheduler

    backbone = load(build_stable(tmp_path, prediction=prediction))
    cond = backbone.embed([TEXT])
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(5)  # divides 1000: else diffusers steps to another level than it visits next
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
    z = normal(backbone.shape, [3])
    with torch.no_grad():
        x = z.clone()  # diffusers starts from x_T = N(0, I); in sigma units that is x_T / alpha_T
        for t in scheduler.timesteps:
            out = backbone.unet(x, t, encoder_hidden_states=cond.states, encoder_attention_mask=cond.mask).sample
            x = scheduler.step(out, t, x).prev_sample
        *_, last = euler(backbone.denoiser(cond), z / alphas[0].sqrt(), sigmas)
    assert torch.allclose(last.x, x, atol=2e-5 * float(x.abs().max())), "float32 round-off over 5 steps"


def test_timestep_inverts_the_trained_table(own: Path) -> None:
    backbone = load(own)
    t = torch.arange(1000, dtype=torch.float64)
    assert torch.allclose(backbone.timestep(backbone.sigmas), t, atol=1e-9)
    between = backbone.timestep((backbone.sigmas[10] * backbone.sigmas[11]).sqrt())
    assert abs(float(between) - 10.5) < 1e-9, "half way in log sigma"
    assert float(backbone.timestep(torch.tensor(1e9))) == 999


def test_both_halves_in_one_call_equal_two_calls(own: Path) -> None:
    backbone = load(own)
    cond, empty = backbone.embed([TEXT]), backbone.embed([""])
    z, sigma = 2 * normal(backbone.shape, [0]), torch.tensor(2.0)
    with torch.no_grad():
        text, plain = backbone.denoiser_pair(cond, empty)(z, sigma)
        assert torch.allclose(text, backbone.denoise(z, sigma, cond), atol=1e-5)
        assert torch.allclose(plain, backbone.denoise(z, sigma, empty), atol=1e-5)
        assert not torch.allclose(text, plain, atol=1e-3), "the text must matter"


def test_padding_does_not_reach_the_image(own: Path) -> None:
    """Masked tokens change nothing; unmasked ones would, which is what a pipeline without a mask gets wrong."""
    backbone = load(own)
    short = backbone.embed(["Brain MRI."])
    padded = join([short, backbone.embed([TEXT])])[:1]
    noisy = type(padded)(padded.states + 5 * ~padded.mask[..., None], padded.mask, padded.pooled)
    z, sigma = normal(backbone.shape, [0]), torch.tensor(1.0)
    with torch.no_grad():
        a, b = backbone.denoise(z, sigma, short), backbone.denoise(z, sigma, noisy)
        assert torch.allclose(a, b, atol=1e-5)
        open_mask = type(noisy)(noisy.states, torch.ones_like(noisy.mask), noisy.pooled)
        assert not torch.allclose(a, backbone.denoise(z, sigma, open_mask), atol=1e-4)


def test_one_channel_in_and_out_of_a_three_channel_codec(stable: Path) -> None:
    backbone = load(stable)
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    z = backbone.encode(x)
    assert z.shape == (2, *backbone.shape)
    assert torch.equal(z, backbone.encode(x)), "the mean, not a draw"
    assert backbone.decode(z).shape == x.shape
    with pytest.raises(ValueError, match="give \\(B, 1, H, W\\)"):
        backbone.encode(torch.zeros(1, 3, 16, 16))


def test_fingerprint_follows_the_weights(own: Path, tmp_path: Path) -> None:
    first = load(own).fingerprint
    copy = shutil.copytree(own, tmp_path / "copy")
    assert load(copy).fingerprint == first
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load(copy).fingerprint != first


def test_zero_terminal_snr() -> None:
    config = {"beta_schedule": "linear", "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match="divides by zero"):
        table({**config, "prediction_type": "epsilon"})
    assert bool(table({**config, "prediction_type": "v_prediction"}).isfinite().all())


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("unet/config.json", {"_class_name": "os.system"}, "vlgen builds UNet2DConditionModel"),
        ("vae/config.json", {"_class_name": "EvilCodec"}, "vlgen builds Autoencoder"),
        ("unet/config.json", {"block_out_channels": [16, 16]}, "do not fit"),
        ("scheduler/scheduler_config.json", {"prediction_type": "x"}, "prediction_type"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(own: Path, tmp_path: Path, file: str, change: dict, said: str) -> None:
    copy = shutil.copytree(own, tmp_path / "copy")
    config = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=said):
        load(copy)


def test_pickles_and_missing_parts_are_refused(own: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(own, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="must be safetensors"):
        part(copy / "unet", {"UNet2DConditionModel": lambda: pytest.fail("nothing is built from a pickle")})
    shutil.rmtree(copy / "text_encoder")
    weights.with_suffix(".bin").rename(weights)
    with pytest.raises(ValueError, match="no text encoder"):
        load(copy)


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/open_clip_model.safetensors",
        "text_encoder/tokenizer.json",
        "text_encoder/open_clip_config.json",
    ],
)
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_damaged_files_are_named(own: Path, tmp_path: Path, file: str, content: bytes | None) -> None:
    copy = shutil.copytree(own, tmp_path / "copy")
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="copy"):
        load(copy)


@pytest.mark.parametrize("name", ["nobody/nothing", "no such model", "mini2", "", "../.."])
def test_unknown_models_say_what_to_do(name: str) -> None:
    with pytest.raises(ValueError, match=r"give (mini|a model)"):
        load(name)
