"""Stage 1, the codec: a diffusers autoencoder of one channel, trained on crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlgen.backbone import latent
from vlgen.folder import CODECS
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.loop import Task
from vlgen.pretrain.perceptual import Perceptual
from vlgen.pretrain.recipe import Recipe
from vlgen.sheet import sheet
from vlgen.tensors import generator


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
        top, left = torch.randint(0, recipe.size - crop + 1, (2, len(indices)), generator=g).tolist()
        x = torch.stack(
            # float before stack: under bfloat16 autocast on a CPU, float16 cannot be stacked
            [train.pixels[i, :, t : t + crop, s : s + crop].float() for i, t, s in zip(indices, top, left, strict=True)]
        )
        x = x.contiguous(memory_format=torch.channels_last).to(device)
        z, y, small = model(x, noise, g, float(torch.rand((), generator=g)) < half)
        z = z.float()
        error = _distance(y.float(), x)
        figures = {"error": float(error.detach()), "std": float(z.detach().std()), "perceptual": 0.0}
        whole = error + 0.01 * (z.mean((0, 2, 3)).square().mean() + (z.square().mean().sqrt() - 1).square())
        if small is not None:
            whole = whole + _distance(small.float(), F.avg_pool2d(x, 2))
        if perceptual is not None:
            few = max(1, len(x) // 4)  # it costs more than the codec itself
            look = perceptual(y[:few], x[:few])
            whole, figures["perceptual"] = whole + sharpness * look, float(look.detach())
        return whole, figures

    def picture(model: nn.Module, path: Path) -> None:
        shown = _pick(test, recipe, 3)
        x = test.pixels[shown].float().to(device)
        with torch.inference_mode():
            y = model.codec.decode(latent(model.codec, x)).sample.float()
        rows = [[*x[k : k + 6].cpu(), *y[k : k + 6].clamp(-1, 1).cpu()] for k in range(0, len(shown), 6)]
        sheet([[(v + 1) / 2 for v in row] for row in rows], [""] * len(rows)).save(path)

    def export(model: nn.Module) -> None:
        codec, folder = model.codec, parts / "vae"
        with torch.inference_mode():
            z = torch.cat([latent(codec, train.pixels[i : i + 1].float().to(device)) for i in _pick(train, recipe, 50)])
        codec.register_to_config(scaling_factor=float(1 / z.float().std()))
        codec.half().save_pretrained(folder)
        (folder / "measured.json").write_text(json.dumps(quality(codec.float(), test, recipe, device), indent=1))

    def indices(step: int) -> list[int]:
        return draw(train, batch, recipe.seed, step)

    return Task(network, loss, indices, picture, export, stamp(recipe, "codec", train))


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


def _distance(y: Tensor, x: Tensor) -> Tensor:
    difference = (y - x).flatten(1)
    return difference.abs().mean() + (difference.square().mean(1) + 1e-6).sqrt().mean()


def _pick(examples: Examples, recipe: Recipe, each: int) -> list[int]:
    """The first `each` images of every source."""
    return [
        i for s in sorted(set(examples.source)) for i in [k for k, t in enumerate(examples.source) if t == s][:each]
    ]


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
