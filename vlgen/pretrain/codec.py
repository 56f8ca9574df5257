"""Stage 1, the codec: a diffusers autoencoder of one channel, trained on crops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlgen.backbone import latent
from vlgen.folder import CODECS
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.perceptual import Perceptual
from vlgen.pretrain.recipe import Recipe
from vlgen.sheet import sheet
from vlgen.tensors import generator
from vlgen.train.loop import Task

ENCODER = ("encoder.", "quant_conv.")  # what makes latents, in every diffusers autoencoder


class _Autoencoder(nn.Module):
    """Encode, disturb, decode in one forward, so that several devices share the work of both halves."""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor, noise: float, g: torch.Generator, half: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        z = latent(self.codec, x)
        disturbed = z + noise * torch.randn(z.shape, generator=g).to(z)
        small = self.codec.decode(F.avg_pool2d(z, 2)).sample if half else None
        return z, self.codec.decode(disturbed).sample, small


def task(recipe: Recipe, train: Examples, test: Examples, parts: Path, device: torch.device) -> Task:
    """The codec of a recipe as a task for the loop.

    The loss, per image so that dark modalities count as much as bright ones: L1 + RMSE of the decoded crop;
    `perceptual` times the distance of early features; in a share `half` of the steps, L1 + RMSE of what half-size
    latents decode to against the half-size crop, which keeps the latent space smooth in scale (Kouzelis et al. 2025,
    arXiv:2502.09509); and a pull of the latents to zero mean and unit scale. A little noise on the latents teaches the
    decoder to forgive what a sampler leaves behind.
    """
    options = recipe.options["codec"]
    crop, noise = int(options.get("crop", 128)), float(options.get("noise", 0.05))
    half, sharpness = float(options.get("half", 0.25)), float(options.get("perceptual", 0.0))
    perceptual = Perceptual().to(device) if sharpness else None
    torch.manual_seed(recipe.seed)
    network = _Autoencoder(build(options))
    batch = recipe.training["codec"].batch

    def loss(model: nn.Module, indices: list[int], step: int) -> tuple[Tensor, dict[str, float]]:
        g = generator(recipe.seed, "crop", step, indices[0])
        x = crops(train, indices, crop, g).to(device)
        z, y, small = model(x, noise, g, float(torch.rand((), generator=g)) < half)
        z = z.float()
        error = distance(y.float(), x)
        figures = {"error": float(error.detach()), "std": float(z.detach().std()), "perceptual": 0.0}
        whole = error + 0.01 * (z.mean((0, 2, 3)).square().mean() + (z.square().mean().sqrt() - 1).square())
        if small is not None:
            whole = whole + distance(small.float(), F.avg_pool2d(x, 2))
        if perceptual is not None:
            few = max(1, len(x) // 4)  # it costs more than the codec itself
            look = perceptual(y[:few], x[:few])
            whole, figures["perceptual"] = whole + sharpness * look, float(look.detach())
        return whole, figures

    def export(model: nn.Module) -> None:
        codec, folder = model.codec, parts / "vae"
        with torch.inference_mode():
            z = torch.cat([latent(codec, train.pixels[i : i + 1].float().to(device)) for i in pick(train, recipe, 50)])
        codec.register_to_config(scaling_factor=float(1 / z.float().std()))
        codec.half().save_pretrained(folder)
        (folder / "measured.json").write_text(json.dumps(quality(codec.float(), test, recipe, device), indent=1))

    def indices(step: int) -> list[int]:
        return draw(train, batch, recipe.seed, step)

    def shown(model: nn.Module, path: Path) -> None:
        picture(model.codec, test, recipe, device, path)

    return Task(network, loss, indices, shown, export, stamp(recipe, "codec", train))


def parameters(recipe: Recipe) -> int:
    """How many parameters the stage trains."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(recipe.options["codec"]).parameters())


def build(options: Any) -> nn.Module:
    """The autoencoder that a recipe describes: a diffusers class by name, one channel in and out."""
    name = str(options.get("class", "AutoencoderDC"))
    if name not in CODECS:
        raise ValueError(f"[codec] class {name!r} is unknown: choose one of {', '.join(CODECS)}")
    return CODECS[name]().from_config(dict(options["model"]))


def distance(y: Tensor, x: Tensor) -> Tensor:
    """L1 + RMSE of each image, their mean: dark modalities count as much as bright ones."""
    difference = (y - x).flatten(1)
    return difference.abs().mean() + (difference.square().mean(1) + 1e-6).sqrt().mean()


def picture(codec: Any, test: Examples, recipe: Recipe, device: torch.device, path: Path) -> None:
    """Write a sheet of held-out images, three of every source, and beside them what the codec makes of each."""
    shown = pick(test, recipe, 3)
    x = test.pixels[shown].float().to(device)
    with torch.inference_mode():
        y = codec.decode(latent(codec, x)).sample.float()
    rows = [[*x[k : k + 6].cpu(), *y[k : k + 6].clamp(-1, 1).cpu()] for k in range(0, len(shown), 6)]
    sheet([[(v + 1) / 2 for v in row] for row in rows], [""] * len(rows)).save(path)


def crops(examples: Examples, indices: Sequence[int], side: int, g: torch.Generator) -> Tensor:
    """(B, 1, side, side) in [-1, 1]: a piece of each of these images, from a place of chance."""
    top, left = torch.randint(0, examples.pixels.shape[-1] - side + 1, (2, len(indices)), generator=g).tolist()
    places = zip(indices, top, left, strict=True)
    # float before stack: under bfloat16 autocast on a CPU, float16 cannot be stacked
    x = torch.stack([examples.pixels[i, :, t : t + side, s : s + side].float() for i, t, s in places])
    return x.contiguous(memory_format=torch.channels_last)


def pick(examples: Examples, recipe: Recipe, each: int) -> list[int]:
    """The first `each` images of every source."""
    return [
        i for s in sorted(set(examples.source)) for i in [k for k, t in enumerate(examples.source) if t == s][:each]
    ]


def encoder_digest(codec: nn.Module) -> str:
    """The sha256 of a codec's encoder, in float16 as it is stored: what latents depend on, whatever decodes them."""
    found = hashlib.sha256()
    for name, value in sorted(codec.state_dict().items()):
        if name.startswith(ENCODER):
            found.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return found.hexdigest()


def quality(codec: nn.Module, test: Examples, recipe: Recipe, device: torch.device) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SSIM of decode(encode(x)) on held-out patients, per modality: mean over images, with n.

    Images are in [-1, 1], so the peak is 2.
    """
    from vlgen.metrics.image import psnr, ssim

    found: dict[str, list[tuple[float, float]]] = {}
    for index in range(len(test)):
        x = test.pixels[index : index + 1].float().to(device)
        with torch.inference_mode():
            y = codec.decode(latent(codec, x)).sample.float().clamp(-1, 1)
        pair = (float(psnr(y, x, peak=2.0)), float(ssim(y, x, peak=2.0)))
        found.setdefault(test.modality(index, recipe), []).append(pair)
    return {
        name: {"n": len(v), "psnr": sum(p for p, _ in v) / len(v), "ssim": sum(s for _, s in v) / len(v)}
        for name, v in sorted(found.items())
    }
