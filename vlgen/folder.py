"""Folders in diffusers' format: finding a model, and building its parts from a fixed list of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MINI = Path(__file__).parent / "mini"
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _of_diffusers(name: str) -> Callable[[], Any]:
    def get() -> Any:
        import diffusers

        return getattr(diffusers, name)

    return get


# Every file that a backbone is built from, its index apart.
BUILT_FROM = (
    *(f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", "diffusion_pytorch_model.safetensors")),
    "scheduler/scheduler_config.json",
    *(f"text_encoder/{name}" for name in ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json")),
    *(f"text_encoder/{name}" for name in ("config.json", "model.safetensors")),
    *(f"tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")),
)

# The classes that a folder may name. Nothing else is ever built, and no code from a folder ever runs.
CODECS = {name: _of_diffusers(name) for name in ("AutoencoderDC", "AutoencoderKL", "AutoencoderTiny")}
UNETS = {name: _of_diffusers(name) for name in ("UNet2DConditionModel",)}


def table(scheduler: Mapping[str, Any]) -> Tensor:
    """The trained noise levels sigma_t / alpha_t of a diffusers scheduler's configuration: (T,) float64, increasing.

    Raises ValueError for epsilon prediction with zero terminal SNR, where the last level divides by zero.
    """
    from diffusers import DDPMScheduler

    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise ValueError(f"prediction_type {scheduler['prediction_type']!r}: give one of {', '.join(PREDICTIONS)}")
    known = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    )
    alphas = DDPMScheduler(**{k: scheduler[k] for k in known if k in scheduler}).alphas_cumprod.double()
    if scheduler.get("rescale_betas_zero_snr"):
        if scheduler.get("prediction_type", "epsilon") == "epsilon":
            raise ValueError("epsilon prediction with rescale_betas_zero_snr divides by zero at the last level: use v")
        alphas = alphas[:-1]  # at the last level sigma is infinite; the one before is the highest that exists
    return ((1 - alphas) / alphas).sqrt()


def resolve(model: str | Path) -> Path:
    """The folder of a model: `mini`, a folder on disk, or a hub id that is already in the local cache.

    Nothing is downloaded. Raises ValueError saying what to do.
    """
    if str(model) == "mini":
        return MINI
    if (Path(model) / "model_index.json").is_file():
        return Path(model)
    if Path(model).is_dir():
        raise ValueError(f"the folder {model} has no model_index.json: give a model in diffusers' folder format")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(model), local_files_only=True))
    except Exception:  # the hub's client raises a dozen classes for "not here" and "not a name"
        raise ValueError(
            f"unknown model {str(model)!r}: give mini, a folder with a model_index.json, or a hub id that is in the "
            f"cache (`hf download {model}` puts it there; vlgen itself never downloads)"
        ) from None


def part(folder: Path, classes: Mapping[str, Callable[[], Any]]) -> Any:
    """One part of a diffusers folder: its class from a fixed list, its weights from safetensors, in float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name not in classes:
        raise ValueError(f"{folder} holds a {name}: vlgen builds {', '.join(classes)}")
    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{weights} is missing: weights must be safetensors, in one file")
    try:
        with torch.device("meta"):  # no time for random weights that are replaced at once
            network: nn.Module = classes[name]().from_config({k: v for k, v in config.items() if not k.startswith("_")})
        state = {name: value.float() for name, value in load_file(weights).items()}
        network.load_state_dict(state, assign=True)
    except SafetensorError:
        raise ValueError(f"{weights} is damaged or no safetensors file: get it again") from None
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights in {folder} do not fit its config.json: {reason}") from None
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def available() -> list[dict[str, Any]]:
    """The models that load without a download: the bundled one, then those of the hub cache."""
    found = [(MINI, "mini", "bundled")] if (MINI / "model_index.json").is_file() else []
    try:
        from huggingface_hub import scan_cache_dir

        for repo in scan_cache_dir().repos:
            for revision in repo.revisions:
                if (revision.snapshot_path / "model_index.json").is_file():
                    found.append((revision.snapshot_path, repo.repo_id, "cached"))
    except Exception:  # no cache, or one that cannot be read: then nothing is cached
        pass
    described = []
    for each in found:
        try:
            described.append(_described(*each))
        except ValueError:
            continue  # a broken download in the cache is no model
    return described


def beside(name: str) -> Path:
    """A top-level folder (demos, adapters, model_cards): inside the package where it is installed, else next to it."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else inside.parents[1] / name


def _described(folder: Path, name: str, where: str) -> dict[str, Any]:
    card = read_json(folder / "model_index.json").get("vlgen", {}).get("card", {})
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20
    page = beside("model_cards") / f"{name}.md" if where == "bundled" else folder / "README.md"
    licence = str(card.get("licence", "see its card"))
    return {"name": name, "where": where, "size_mib": round(size, 1), "licence": licence, "card": str(page)}


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{path} is missing or is not JSON: give a model in diffusers' folder format") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object: give a model in diffusers' folder format")
    return found
