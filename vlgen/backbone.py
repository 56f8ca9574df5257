"""Backbone: a diffusers folder becomes embed, encode, decode, denoise. Timesteps and latent scales end here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen import precision as precisions
from vlgen.adapter import use
from vlgen.attention import blockwise
from vlgen.checkpoint import sha256
from vlgen.folder import BUILT_FROM, CODECS, UNETS, part, read_json, resolve, table
from vlgen.kernels import kernel
from vlgen.tensors import Denoise, expand, normal
from vlgen.text import Cond, TextEncoder, Tokens, join, open_clip_encoder, transformers_encoder


@dataclass
class Backbone:
    """A latent diffusion model in sigma units.

    unet        diffusers' UNet2DConditionModel
    codec       diffusers' autoencoder, one or three channels
    text        the text encoder
    sigmas      (T,) float64, the trained noise levels sigma_t / alpha_t, increasing
    prediction  what the network predicts: epsilon, v_prediction or sample
    scale       latents are codec.encode(x) * scale: unit variance over the training set
    size        pixels a side
    defaults    solver, steps, guidance_scale and the like that the model's makers chose
    card        what its makers say of it: modalities, licence
    source      what `load` was given: the name or folder that makes it again
    adapters    the adapters it carries, folder to scale; their weights' sha256, and the modalities they are for
    kernel      the kernel that its weights, adapters included, were trained under; base_kernel, without adapters
    windows     windows of modalities that its adapters were trained under, where they are not the modality's own
    forced      differences between the adapters' contracts and this backbone that the user overrode
    carried     the adapters on it, by the name of their modules; `vlgen.adapter` keeps it and the fields above
    precision   that network and decoder compute in, float32 or bf16; latents, images and texts are float32 in both
    """

    name: str
    folder: Path
    unet: Any
    codec: Any
    text: TextEncoder
    sigmas: Tensor
    prediction: str
    scale: float
    size: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    adapters: dict[str, float] = field(default_factory=dict)
    adapter_sha256: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    kernel: str = "gaussian"
    base_kernel: str = "gaussian"
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    forced: tuple[str, ...] = ()
    carried: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one latent."""
        side = self.size // self.factor
        return int(self.unet.config["in_channels"]), side, side

    @cached_property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latent, along a side."""
        return reduction(self.codec)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every file that the backbone is built from: the same fingerprint means the same network.

        The index, with its defaults and card, is left out: another default changes no weights.
        """
        files = [self.folder / name for name in BUILT_FROM if (self.folder / name).is_file()]
        return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()

    def tokens(self, text: str) -> Tokens:
        """How the encoder reads a text: its chunks, tokens kept and dropped."""
        return self.text.tokens(text)

    def embed(self, texts: Sequence[str]) -> Cond:
        """The conditions of some texts; the empty text is the unconditional one."""
        return self.text(texts)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 1, H, W) in [-1, 1] to latents of unit scale: the mean of the posterior, never a draw."""
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"images of shape {tuple(x.shape)}: give (B, 1, H, W) with sides divisible by {self.factor}"
            )
        channels = int(self.codec.config["in_channels"])
        return latent(self.codec, x.to(self.device).float().expand(-1, channels, -1, -1)) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Latents to images (B, 1, H, W), nominally in [-1, 1], in float32."""
        return self.codec.decode(z.float() / self.scale).sample.float().mean(1, keepdim=True)

    def denoise(self, z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """The clean latent that the network expects behind z = z0 + sigma * noise.

        z      (B, C, H, W)
        sigma  () or (B,), inside the trained range

        For a variance-preserving network sigma = sigma_t / alpha_t, and its own input is z / sqrt(1 + sigma^2).
        epsilon: z0 = z - sigma * eps; v: z0 = z / (1 + sigma^2) - v * sigma / sqrt(1 + sigma^2)
        (Salimans and Ho 2022, arXiv:2202.00512, appendix D, in x_hat = x_t / alpha_t).
        """
        s = expand(sigma, z)
        norm = (1 + s**2).sqrt()
        t = self.timestep(sigma).to(z.device, torch.float32).expand(len(z))
        dtype, pools = self.unet.dtype, self.unet.config.get("class_embed_type") == "projection"
        extra = {"class_labels": cond.pooled.to(dtype)} if pools else {}
        out = self.unet(
            (z / norm).to(dtype).contiguous(memory_format=torch.channels_last),
            t,
            encoder_hidden_states=cond.states.to(dtype),
            encoder_attention_mask=cond.mask,
            **extra,
        ).sample.to(z.dtype)
        if self.prediction == "epsilon":
            return z - s * out
        if self.prediction == "v_prediction":
            return z / norm**2 - out * s / norm
        return out

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep whose trained noise level is sigma, between two by interpolation in log sigma; float64."""
        table = self.sigmas.log()
        wanted = torch.as_tensor(sigma, dtype=torch.float64).cpu().log()
        above = torch.searchsorted(table, wanted.reshape(-1)).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        t = (above - 1) + ((wanted.reshape(-1) - low) / (high - low)).clamp(0, 1)
        return t.reshape(wanted.shape)

    @torch.inference_mode()
    def probe(self) -> Tensor:
        """What the backbone makes of one fixed latent, on the CPU: an adapter must change it."""
        z = normal(self.shape, [0]).to(self.device)
        return self.denoise(z, torch.tensor(1.0), self.embed(["Chest radiograph."])).float().cpu()

    def denoiser(self, cond: Cond) -> Denoise:
        """The denoiser of these conditions, as solvers and guidance want it."""
        return lambda z, sigma: self.denoise(z, sigma, cond)

    def denoiser_pair(self, cond: Cond, without: Cond) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both halves of classifier-free guidance in one call on 2B images, each half with its own mask."""
        both = join([cond, without])

        def pair(z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            s = sigma if sigma.ndim == 0 else sigma.repeat(2)
            return tuple(self.denoise(z.repeat(2, 1, 1, 1), s, both).chunk(2))  # type: ignore[return-value]

        return pair


def load(
    model: str | Path = "mini",
    *,
    adapter: str | Path | Sequence[str | Path] = (),
    force_adapter: bool = False,
    device: str | torch.device | None = None,
    precision: str = "float32",
    compile: bool = False,
) -> Backbone:
    """The backbone in a diffusers folder: the bundled `mini`, a folder, or a hub id from the local cache.

    adapter        a folder, or several, each with its scale after a colon if that is not 1: "adapters/mine:0.8"
    force_adapter  take an adapter whose contract is for another backbone; whatever is made says so
    precision      float32; bf16, quicker where the machine has units for it, but not the same bits in every batch; or
                   auto, the one of them that is quicker. `vlgen benchmark path` prints what bf16 costs in error
    compile        let torch.compile make the network quicker: its first call takes minutes, and so does each new shape

    Weights are read from safetensors only, strictly, into classes from a fixed list.
    Raises ValueError where a part is missing, unknown or does not fit.
    """
    folder = resolve(model)
    index = read_json(folder / "model_index.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    unet = part(folder / "unet", UNETS).to(device)
    codec = part(folder / "vae", CODECS).to(device)
    chosen = precisions.resolve(precision, device)
    if chosen == "bf16":
        precisions.lower(unet)
        precisions.lower_decoder(codec)
        blockwise(unet)
    if (folder / "text_encoder" / "open_clip_config.json").is_file():
        text = open_clip_encoder(folder / "text_encoder")
    elif (folder / "text_encoder" / "config.json").is_file():
        text = transformers_encoder(folder / "text_encoder", folder / "tokenizer")
    else:
        raise ValueError(f"{folder} has no text encoder that vlgen knows: CLIP of transformers or of open_clip")
    text.tower.to(device)
    own = index.get("vlgen", {})
    if not isinstance(own, dict) or not all(isinstance(own.get(name, {}), dict) for name in ("defaults", "card")):
        raise ValueError(f"the part 'vlgen' of {folder / 'model_index.json'} is not an object with objects: mend it")
    odd = [key for key in ("addition_embed_type", "encoder_hid_dim_type") if unet.config.get(key)]
    if odd or unet.config["in_channels"] != unet.config["out_channels"]:
        raise ValueError(
            f"the UNet in {folder} wants more than text ({', '.join(odd) or 'an inpainting mask'}): not known"
        )
    factor = reduction(codec)
    backbone = Backbone(
        name=str(own.get("name", model)),
        folder=folder,
        unet=unet,
        codec=codec,
        text=text,
        sigmas=table(scheduler),
        prediction=str(scheduler.get("prediction_type", "epsilon")),
        scale=float(codec.config["scaling_factor"]),
        size=int(own.get("size", int(unet.config["sample_size"] or 64) * factor)),
        defaults=own.get("defaults", {}),
        card=own.get("card", {}),
        source=str(model),
        kernel=kernel(str(own.get("kernel", "gaussian"))).name,
        base_kernel=kernel(str(own.get("kernel", "gaussian"))).name,
        precision=chosen,
    )
    use(backbone, [adapter] if isinstance(adapter, str | Path) else adapter, force=force_adapter)
    if compile:
        unet.compile()
    return backbone


def reduction(codec: Any) -> int:
    """How many pixels of the image lie along one pixel of the latent."""
    channels = codec.config.get("block_out_channels") or codec.config["encoder_block_out_channels"]
    return int(2 ** (len(channels) - 1))


def latent(codec: Any, x: Tensor) -> Tensor:
    """The latent of images before scaling: the mean of an autoencoder's posterior, or its one code."""
    encoded = codec.encode(x)
    if hasattr(encoded, "latent_dist"):
        mean: Tensor = encoded.latent_dist.mode()
        return mean
    code: Tensor = encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return code
