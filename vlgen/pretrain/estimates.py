"""What a sampler makes of real latents: each is noised, and walked down again by the finished diffusion."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from vlgen.backbone import load
from vlgen.checkpoint import sha256
from vlgen.guidance import cfg_batched
from vlgen.pretrain.codec import encoder_digest
from vlgen.pretrain.diffusion import UPSTREAM, latents
from vlgen.pretrain.examples import Examples
from vlgen.solvers import solver
from vlgen.tensors import counter, normal
from vlgen.train.loop import precision
from vlgen.train.network import arranged

STEPS = 3
UNET = "unet/diffusion_pytorch_model.safetensors"


def estimates(examples: Examples, parts: Path, device: torch.device, *, highest: float, seed: int) -> Tensor:
    """The latents of all images as the sampler leaves them, (N, C, H, W) float16; computed once, and kept in the cache.

    Batch by batch a level between the model's own sigma_min and `highest`, even in ln sigma; noise of that level is
    added to the latents, and the model's default solver and guidance walk down from there in a few steps, told the
    image's report. So each still belongs to its image, but carries what the sampler does to fine detail.
    """
    from safetensors.torch import load_file, save_file

    backbone = load(parts)
    backbone.unet.to(device)
    backbone.text.tower.to(device)
    backbone.codec.to(device)
    lowest = float(backbone.defaults.get("sigma_min", backbone.sigmas[0]))
    if not lowest < highest <= float(backbone.sigmas[-1]):
        raise ValueError(f"highest of [decoder] is {highest:g}: give a sigma above the model's sigma_min, {lowest:g}")
    made_of = [sha256(parts / name) for name in (*UPSTREAM, UNET)] + [encoder_digest(backbone.codec)]
    told = [str(backbone.defaults.get(name)) for name in ("solver", "guidance_scale", "sigma_min")]
    digest = counter(*made_of, *told, examples.digest, highest, seed)
    folder = parts.parent / "cache"
    cache = folder / f"estimates-{digest:016x}.safetensors"
    if cache.is_file():
        return load_file(cache)["estimates"]
    walk = solver(str(backbone.defaults.get("solver", "dpmpp_2m")))
    scale = float(backbone.defaults.get("guidance_scale", 1.0))
    z, found, mixed = latents(backbone, examples, folder), [], precision()
    quick = torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed == "bf16")
    with arranged(backbone, mixed), torch.no_grad(), quick:
        empty = backbone.embed([""])
        for start in range(0, len(z), 32):
            part = z[start : start + 32].to(device)
            rows = range(start, start + len(part))
            seeds = [counter(seed, "estimate", k) for k in rows]
            sigma = lowest * (highest / lowest) ** (counter(seed, "level", start) % 997 / 996)
            sigmas = torch.cat([torch.linspace(math.log(sigma), math.log(lowest), STEPS).exp(), torch.zeros(1)])
            cond = backbone.embed([examples.reports[k].compose(s, rare=True) for k, s in zip(rows, seeds, strict=True)])
            denoise = cfg_batched(backbone.denoiser_pair(cond, empty.repeat(len(part))), scale)
            *_, last = walk(denoise, part + sigma * normal(backbone.shape, seeds).to(part), sigmas, seeds=seeds)
            found.append(last.x.half().cpu())
    done = torch.cat(found).contiguous()
    aside = cache.with_suffix(".tmp")
    save_file({"estimates": done}, aside)
    aside.replace(cache)
    return done
