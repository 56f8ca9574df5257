"""Stage 4, the decoder: it learns to forgive what a sampler leaves behind; the encoder, so every latent, stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from vlgen.backbone import latent
from vlgen.folder import CODECS, part
from vlgen.pretrain.codec import ENCODER, crops, distance, encoder_digest, picture, quality
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.perceptual import Perceptual
from vlgen.pretrain.recipe import Recipe
from vlgen.tensors import generator
from vlgen.train.loop import Task


class _Decoder(nn.Module):
    """Encode without a gradient, disturb each latent by its own amount, decode."""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor, noise: float, g: torch.Generator) -> Tensor:
        with torch.no_grad():
            z = latent(self.codec, x)
        amount = noise * torch.rand((len(z), 1, 1, 1), generator=g).to(z)
        decoded: Tensor = self.codec.decode(z + amount * torch.randn(z.shape, generator=g).to(z)).sample
        return decoded


def task(recipe: Recipe, train: Examples, test: Examples, parts: Path, device: torch.device) -> Task:
    """The decoder of a recipe's finished codec as a task for the loop.

    A sampler's latents are not the encoder's: they lie beside them. So the decoder sees each latent under noise between
    none and `noise`, as Zheng et al. 2025, arXiv:2510.11690, section 4.3 do, and answers with L1 + RMSE of the clean
    crop and `perceptual` times the distance of early features. The encoder is frozen: a diffusion that was trained on
    its latents stays right.
    """
    options = recipe.options["decoder"]
    crop, noise = int(options.get("crop", 128)), float(options.get("noise", 0.3))
    sharpness, batch = float(options.get("perceptual", 0.0)), recipe.training["decoder"].batch
    codec = part(_begin(parts), CODECS).float().to(device)
    noise /= float(codec.config["scaling_factor"])  # in units of latents of unit scale
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(not name.startswith(ENCODER))
    perceptual = Perceptual().to(device) if sharpness else None

    def loss(model: nn.Module, indices: list[int], step: int) -> tuple[Tensor, dict[str, float]]:
        g = generator(recipe.seed, "decoder", step, indices[0])
        x = crops(train, indices, crop, g).to(device)
        y = model(x, noise, g).float()
        error = distance(y, x)
        figures = {"error": float(error.detach()), "perceptual": 0.0}
        if perceptual is None:
            return error, figures
        few = max(1, len(x) // 2)
        look = perceptual(y[:few], x[:few])
        figures["perceptual"] = float(look.detach())
        return error + sharpness * look, figures

    def export(model: nn.Module) -> None:
        (parts / "vae" / "measured.json").write_text(json.dumps(quality(model.codec, test, recipe, device), indent=1))
        model.codec.half().save_pretrained(parts / "vae")
        model.codec.float()

    made_of = stamp(recipe, "decoder", train) + encoder_digest(codec)
    return Task(
        _Decoder(codec),
        loss,
        lambda step: draw(train, batch, recipe.seed, step),
        lambda model, path: picture(model.codec, test, recipe, device, path),
        export,
        made_of,
    )


def _begin(parts: Path) -> Path:
    """The folder of the codec as its own stage left it: kept aside, since this stage writes into the same place."""
    given, kept = parts / "vae", parts.parent / "decoder" / "begin"
    if not (given / "config.json").is_file():
        raise ValueError(f"{parts} has no finished codec: run the stage codec first")
    of = [encoder_digest(part(place, CODECS)) for place in (given, kept) if (place / "config.json").is_file()]
    if len(set(of)) > 1 or len(of) == 1:  # none is kept, or that of another codec
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(given, kept)
    return kept


def parameters(recipe: Recipe) -> int:
    """How many parameters the stage trains."""
    from vlgen.pretrain.codec import build

    with torch.device("meta"):
        codec = build(recipe.options["codec"])
    return sum(p.numel() for name, p in codec.named_parameters() if not name.startswith(ENCODER))
