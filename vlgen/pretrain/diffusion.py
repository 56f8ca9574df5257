"""Stage 3, the latent diffusion: a diffusers UNet that reads the text tower's token states, trained in sigma units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.backbone import Backbone
from vlgen.folder import CODECS, part, table
from vlgen.guidance import cfg_batched
from vlgen.pretrain.codec import encoder_digest
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.recipe import Recipe
from vlgen.schedules import karras
from vlgen.sheet import sheet
from vlgen.solvers import dpmpp_2m
from vlgen.tensors import counter, expand, generator, normal
from vlgen.text import Cond, open_clip_encoder
from vlgen.train.loop import Task, precision
from vlgen.train.network import arranged, layout

# files that the stage builds upon, besides the encoder
UPSTREAM = (
    "text_encoder/open_clip_model.safetensors",
    "text_encoder/tokenizer.json",
)


class _Denoiser(nn.Module):
    """backbone.denoise as a module of the UNet alone, so that accelerate can wrap what is trained."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.unet = backbone.unet
        self._backbone = [backbone]  # in a list: the frozen parts are not submodules

    def forward(self, z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self._backbone[0].denoise(z, sigma, cond)


def task(recipe: Recipe, train: Examples, test: Examples, parts: Path, device: torch.device) -> Task:
    """The latent diffusion of a recipe as a task for the loop.

    Noise levels are log-normal (Karras et al. 2022, arXiv:2206.00364, eq. 8 and table 1: ln sigma ~ N(mean, std^2))
    within the scheduler's table; the loss is lambda(sigma) |D(z + sigma n) - z|^2, lambda = (1 + sigma^2) / sigma^2,
    which for v-prediction of unit-variance latents is the plain error of v. Texts are composed anew for every draw, and
    a share `drop` of them is empty, so that guidance has its other half.
    """
    options = recipe.options["diffusion"]
    torch.manual_seed(recipe.seed)
    backbone, mixed = assemble(recipe, parts, device), precision()
    arrangement = arranged(backbone, mixed)
    batch = recipe.training["diffusion"].batch
    mean, std, drop = float(options.get("mean", 0.0)), float(options.get("std", 1.2)), float(options.get("drop", 0.1))
    z_train, z_test = (latents(backbone, examples, parts.parent / "cache") for examples in (train, test))
    lo, hi = float(backbone.sigmas[0]), float(backbone.sigmas[-1])

    def error(model: nn.Module, z: Tensor, texts: list[str], g: torch.Generator) -> Tensor:
        sigma = (mean + std * torch.randn(len(z), generator=g)).exp().clamp(lo, hi).to(device)
        noise = torch.randn(z.shape, generator=g).to(device)
        s = expand(sigma, z)
        found = model(z + s * noise, sigma, backbone.embed(texts))
        return ((found.float() - z).square() * (1 + s**2) / s**2).mean()

    def loss(model: nn.Module, indices: list[int], step: int) -> tuple[Tensor, dict[str, float]]:
        g = generator(recipe.seed, "diffusion", step, indices[0])
        seeds = [counter(recipe.seed, "text", step, k, i) for k, i in enumerate(indices)]
        texts = [
            "" if seed % 1000 < 1000 * drop else train.reports[i].compose(seed, rare=True)
            for seed, i in zip(seeds, indices, strict=True)
        ]
        return error(model, z_train[indices].to(device), texts, g), {}

    def told(rows: list[int]) -> list[str]:
        return [test.reports[k].compose(k, rare=True) for k in rows]

    def picture(model: nn.Module, path: Path) -> None:
        backbone.unet.eval()
        with arrangement.resting(), torch.inference_mode():
            chosen = [draw(test, 64, recipe.seed, k) for k in range(4)]
            held_out = [
                float(error(model, z_test[i].to(device), told(i), generator("sheet", n))) for n, i in enumerate(chosen)
            ]
            texts = [str(text) for text in options.get("sheet", [""])]
            rows = [[(x + 1) / 2 for x in _sample(backbone, text, range(4)).clamp(-1, 1)] for text in texts]
        sheet(rows, texts).save(path)
        path.with_suffix(".json").write_text(json.dumps({"held-out loss": sum(held_out) / len(held_out), "n": 256}))

    def export(model: nn.Module) -> None:
        with arrangement.resting():
            write(backbone, recipe, parts)

    def indices(step: int) -> list[int]:
        return draw(train, batch, recipe.seed, step)

    made_of = stamp(recipe, "diffusion", train, *(parts / name for name in UPSTREAM)) + encoder_digest(backbone.codec)
    arrangement.__enter__()  # for as long as the stage runs: its backbone is nobody else's
    return Task(_Denoiser(backbone), loss, indices, picture, export, made_of, layout(device, mixed))


def assemble(recipe: Recipe, parts: Path, device: torch.device) -> Backbone:
    """A backbone of the finished codec and text tower, and a fresh UNet."""
    if not (parts / "vae" / "config.json").is_file() or not (parts / "text_encoder" / "tokenizer.json").is_file():
        raise ValueError(f"{parts} has no finished codec and text tower: run the stages codec and clip first")
    options = recipe.options["diffusion"]
    codec = part(parts / "vae", CODECS).to(device)
    text = open_clip_encoder(parts / "text_encoder")
    text.tower.to(device)
    width, pooled = (int(w.shape[1]) for w in (text.tower.token_embedding.weight, text.tower.text_projection))
    unet = build(options, width, pooled).to(device)
    scheduler = dict(options["scheduler"])
    return Backbone(
        name=recipe.name,
        folder=parts,
        unet=unet,
        codec=codec,
        text=text,
        sigmas=table(scheduler),
        prediction=scheduler["prediction_type"],
        scale=float(codec.config["scaling_factor"]),
        size=recipe.size,
        defaults=options.get("defaults", {}),
        card=recipe.card,
    )


def build(options: Any, width: int, pooled: int) -> Any:
    """The UNet that a recipe describes, for token states of `width` numbers and pooled texts of `pooled`."""
    from diffusers import UNet2DConditionModel

    shape = dict(options["model"]) | {"cross_attention_dim": width}
    if shape.get("class_embed_type") == "projection":
        shape["projection_class_embeddings_input_dim"] = pooled
    return UNet2DConditionModel(**shape)


def parameters(recipe: Recipe) -> int:
    """How many parameters the stage trains."""
    text = recipe.options["clip"]["model"]
    with torch.device("meta"):
        unet = build(recipe.options["diffusion"], int(text["text_cfg"]["width"]), int(text["embed_dim"]))
    return sum(p.numel() for p in unet.parameters())


def latents(backbone: Backbone, examples: Examples, folder: Path) -> Tensor:
    """The latent means of all images, (N, C, H, W) float32: computed once for a codec, and kept in `folder`."""
    from safetensors.torch import load_file, save_file

    digest = counter(encoder_digest(backbone.codec), backbone.scale, examples.digest)  # another has other latents
    cache = folder / f"latents-{digest:016x}.safetensors"
    if cache.is_file():
        return load_file(cache)["latents"]
    found = torch.cat(
        [backbone.encode(examples.pixels[i : i + 8].float()).cpu() for i in range(0, len(examples), 8)]
    ).contiguous()
    aside = cache.with_suffix(".tmp")
    save_file({"latents": found}, aside)
    aside.replace(cache)
    return found


def write(backbone: Backbone, recipe: Recipe, folder: Path) -> None:
    """Complete the folder of a model: its UNet in float16, scheduler and index beside codec and text tower."""
    from diffusers import DDPMScheduler

    state = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    backbone.unet.half().save_pretrained(folder / "unet")
    backbone.unet.float().load_state_dict(state)
    DDPMScheduler(**recipe.options["diffusion"]["scheduler"]).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "Backbone",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(backbone.codec).__name__],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["open_clip", "CLIP"],
        "vlgen": {
            "name": recipe.name,
            "size": recipe.size,
            "defaults": dict(recipe.options["diffusion"].get("defaults", {})),
            "card": dict(recipe.card),
        },
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")


def _sample(backbone: Backbone, text: str, seeds: range) -> Tensor:
    """A first look: 16 steps with guidance 2, far from the best that the network can do."""
    cond, empty = backbone.embed([text] * len(seeds)), backbone.embed([""] * len(seeds))
    hi = min(80.0, float(backbone.sigmas[-1]))
    sigmas = karras(16, max(0.02, float(backbone.sigmas[0])), hi)
    z = hi * normal(backbone.shape, seeds).to(backbone.device)
    *_, last = dpmpp_2m(cfg_batched(backbone.denoiser_pair(cond, empty), 2.0), z, sigmas)
    return backbone.decode(last.x).cpu()
