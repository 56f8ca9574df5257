"""Stage 4, the decoder: it learns to forgive what a sampler leaves behind; the encoder, so every latent, stays."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from vlgen.backbone import latent
from vlgen.folder import CODECS, part
from vlgen.pretrain.codec import ENCODER, crops, distance, encoder_digest, picture, quality
from vlgen.pretrain.critic import Critic, balanced, objection, verdict
from vlgen.pretrain.estimates import estimates
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.perceptual import Perceptual
from vlgen.pretrain.recipe import Recipe
from vlgen.tensors import generator
from vlgen.train.loop import Task


class _Decoder(nn.Module):
    """A codec whose decoder learns, and what judges it: all of the loss in one forward, as several devices want it."""

    def __init__(self, codec: nn.Module, critic: nn.Module | None, against: float, sharpness: float) -> None:
        super().__init__()
        self.codec, self.critic, self.against, self.sharpness = codec, critic, against, sharpness
        self._look = [Perceptual()] if sharpness else []  # in a list: what is frozen is no submodule

    def forward(self, x: Tensor, z: Tensor, own: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of latents z that should decode to images x, and its figures; the first `own` are the encoder's."""
        y = self.codec.decode(z).sample.float()
        error = distance(y, x)
        figures = {"error": float(error.detach()), "perceptual": 0.0}
        if self._look:
            few = _some(len(x), own)
            look = self._look[0].to(x.device)(y[few], x[few])
            figures["perceptual"] = float(look.detach())
            error = error + self.sharpness * look
        if self.critic is None or own == len(x):
            return error, figures
        judged = verdict(self.critic, x, y[own:])
        figures["critic"] = float(judged.detach())
        # a critic that cannot tell yet would pull anywhere: it is heard as far as it can
        heard = self.against * min(max(1 - figures["critic"] / 2, 0.0), 1.0)
        return balanced(y, error, objection(self.critic, y[own:]), heard) + judged, figures


def task(recipe: Recipe, train: Examples, test: Examples, parts: Path, device: torch.device) -> Task:
    """The decoder of a recipe's finished codec as a task for the loop.

    A sampler's latents are not the encoder's: they lie beside them, and where detail is uncertain they are too smooth.
    So the decoder sees two kinds, and answers each with L1 + RMSE of the true crop and `perceptual` times the
    distance of early features. The first are the encoder's under noise between none and `noise`, as in Zheng et al.
    2025, arXiv:2510.11690, section 4.3. The second, a share `sampled` of the batch, are `estimates` of the finished
    diffusion from up to sigma `highest`; on these alone a critic pulls `critic` times as hard towards what looks real,
    so that what the encoder wrote is still decoded faithfully. The encoder is frozen: a diffusion that was trained on
    its latents stays right.
    """
    options = recipe.options["decoder"]
    crop, noise = int(options.get("crop", 128)), float(options.get("noise", 0.3))
    batch, share = recipe.training["decoder"].batch, float(options.get("sampled", 0.0))
    against, sharpness = float(options.get("critic", 0.0)), float(options.get("perceptual", 0.0))
    codec = part(_begin(parts), CODECS).float().to(device)
    scale = float(codec.config["scaling_factor"])  # noise and estimates are in units of latents of unit scale
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(not name.startswith(ENCODER))
    walked = None
    if share:
        walked = estimates(train, parts, device, highest=float(options.get("highest", 2.0)), seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    network = _Decoder(codec, Critic() if share and against else None, against, sharpness)

    def loss(model: nn.Module, indices: list[int], step: int) -> tuple[Tensor, dict[str, float]]:
        g = generator(recipe.seed, "decoder", step, indices[0])
        own = len(indices) if walked is None else len(indices) - round(share * len(indices))
        x = crops(train, indices[:own], crop, g).to(device)
        with torch.no_grad():
            z = latent(codec, x)
        amount = noise / scale * torch.rand((len(z), 1, 1, 1), generator=g).to(z)
        z = z + amount * torch.randn(z.shape, generator=g).to(z)
        if walked is not None and own < len(indices):
            seen, sampled = windows(train, walked, indices[own:], crop, g)
            x, z = torch.cat([x, seen.to(device)]), torch.cat([z.float(), sampled.to(device) / scale])
        found: tuple[Tensor, dict[str, float]] = model(x, z, own)
        return found

    def export(model: nn.Module) -> None:
        (parts / "vae" / "measured.json").write_text(json.dumps(quality(model.codec, test, recipe, device), indent=1))
        model.codec.half().save_pretrained(parts / "vae")
        model.codec.float()

    made_of = stamp(recipe, "decoder", train) + encoder_digest(codec)
    if walked is not None:
        made_of += hashlib.sha256(walked.numpy().tobytes()).hexdigest()
    return Task(
        network,
        loss,
        lambda step: draw(train, batch, recipe.seed, step),
        lambda model, path: picture(model.codec, test, recipe, device, path),
        export,
        made_of,
    )


def windows(examples: Examples, z: Tensor, indices: list[int], side: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces (B, 1, side, side) of images and the pieces of their latents z (N, C, h, w), from the same places."""
    factor = examples.pixels.shape[-1] // z.shape[-1]
    short = side // factor
    top, left = torch.randint(0, z.shape[-1] - short + 1, (2, len(indices)), generator=g).tolist()
    places = [(i, slice(t, t + short), slice(s, s + short)) for i, t, s in zip(indices, top, left, strict=True)]
    pixels = [examples.pixels[i, :, _wide(t, factor), _wide(s, factor)].float() for i, t, s in places]
    return torch.stack(pixels), torch.stack([z[i, :, t, s].float() for i, t, s in places])


def _wide(few: slice, factor: int) -> slice:
    return slice(few.start * factor, few.stop * factor)


def _some(count: int, own: int) -> list[int]:
    """Half of the images, of either kind: the perceptual distance costs as much as the decoder itself."""
    return [*range(max(1, own // 2)), *range(own, own + (count - own + 1) // 2)]


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
