"""Timing: a training step beside one as diffusers' LoRA script does it, on the same model, batch and rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlgen import kernels
from vlgen.backbone import Backbone, latent, load
from vlgen.tensors import generator
from vlgen.train.loop import precision
from vlgen.train.losses import error, levels
from vlgen.train.network import Trained, arranged
from vlgen.train.settings import Settings
from vlgen.train.tune import carried

REPORT = "PA chest radiograph, 58-year-old man. Large left pleural effusion. No pneumothorax."


def train_step_timing(
    model: str | Backbone = "mini", *, batch: int = 8, rank: int = 16, repeats: int = 7, mixed: str | None = None
) -> dict[str, dict[str, float]]:
    """CPU seconds of a step of `vlgen train` and of the reference, in one process and in turn; the fastest counts.

    The reference does what diffusers' examples/text_to_image/train_text_to_image_lora.py does in a step, written anew:
    the codec encodes the images and the posterior is sampled, the text tower reads the texts (without the padding that
    it gets in the script, which makes the reference quicker), their states are padded to its length, LoRA on to_q,
    to_k, to_v and to_out.0, noise at uniform timesteps, mean squared error, gradients clipped to 1, AdamW. It runs in
    float32, the script's default, and, in rows marked bf16, under the same mixed precision as ours.

    vlgen               our step: latents and text states from the cache, LoRA on the same modules
    script              the reference, codec and text tower inside
    script, cached      the same with latents and padded text states ready

    Each row: cpu_s and wall_s a step, and ratio, its cpu_s over ours. All carry the same backbone's weights, each in a
    copy of its own. Raises ValueError where the model is given as an object that carries adapters.
    """
    if isinstance(model, Backbone) and model.carried:
        raise ValueError(f"{model.name} carries adapters already: give the model without them")
    source = model.source if isinstance(model, Backbone) else model
    mixed = mixed or precision()
    works: dict[str, Callable[[], None]] = {}
    with _ours(load(source), batch, rank, mixed) as ours:
        works["vlgen"] = ours
        works["script"] = _Script(load(source), batch, rank, cached=False, mixed="no")
        works["script, cached"] = _Script(load(source), batch, rank, cached=True, mixed="no")
        if mixed == "bf16":
            works["script, bf16"] = _Script(load(source), batch, rank, cached=False, mixed=mixed)
            works["script, cached, bf16"] = _Script(load(source), batch, rank, cached=True, mixed=mixed)
        spent = {name: [float("inf")] * 2 for name in works}
        for turn in range(repeats + 1):  # the first is the warm-up
            for name, work in works.items():
                wall, cpu = time.monotonic(), time.process_time()
                work()
                if turn:
                    now = (time.process_time() - cpu, time.monotonic() - wall)
                    spent[name] = [min(pair) for pair in zip(spent[name], now, strict=True)]
    own = spent["vlgen"][0]
    return {
        name: {"cpu_s": cpu, "wall_s": wall, "ratio": cpu / own, "n": repeats} for name, (cpu, wall) in spent.items()
    }


class _ours:
    """Our step as a context: the adapter lies on the backbone, laid out for training, while it is entered."""

    def __init__(self, backbone: Backbone, batch: int, rank: int, mixed: str) -> None:
        self.backbone, self.batch, self.mixed = backbone, batch, mixed
        self.settings = Settings(rank=rank).resolved(name="timing", images=1)
        self.carried = carried(backbone, self.settings)

    def __enter__(self) -> Callable[[], None]:
        backbone, batch = self.backbone, self.batch
        parameters = self.carried.__enter__()
        self.arranged = arranged(backbone, self.mixed)
        self.arranged.__enter__()
        network, noise = Trained(backbone, parameters), kernels.kernel("gaussian")
        network.train()
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        z, cond = torch.randn(batch, *backbone.shape, generator=generator("timing")), backbone.embed([REPORT] * batch)

        def step() -> None:
            sigma = levels(range(batch), backbone)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed == "bf16"):
                loss = error(network, z, sigma, range(batch), noise, cond, "edm").mean()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            for name, value in network.state_dict().items():
                average[name].lerp_(value.detach(), 0.001)

        return step

    def __exit__(self, *reason: Any) -> None:
        self.arranged.__exit__(*reason)
        self.carried.__exit__(*reason)


class _Script:
    """One step as the script does it, called as often as wanted."""

    def __init__(self, backbone: Backbone, batch: int, rank: int, *, cached: bool, mixed: str) -> None:
        from diffusers import DDPMScheduler
        from peft import LoraConfig

        self.backbone, self.batch, self.cached, self.mixed = backbone, batch, cached, mixed
        unet = backbone.unet.to(memory_format=torch.contiguous_format)
        unet.requires_grad_(False)
        modules = ["to_k", "to_q", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=modules))
        self.trained = [p for p in unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.scheduler = DDPMScheduler.from_pretrained(str(backbone.folder / "scheduler"))
        self.images = torch.rand(batch, 1, backbone.size, backbone.size, generator=generator("timing")) * 2 - 1
        self.ready = (self._encode(), *self._embed())
        unet.train()

    def __call__(self) -> None:
        unet = self.backbone.unet
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed == "bf16"):
            z, states, pooled = self.ready if self.cached else (self._encode(), *self._embed())
            noise = torch.randn_like(z)
            count = int(self.scheduler.config["num_train_timesteps"])
            timesteps = torch.randint(0, count, (self.batch,)).long()
            noisy = self.scheduler.add_noise(z, noise, timesteps)
            target = noise
            if self.scheduler.config["prediction_type"] == "v_prediction":
                target = self.scheduler.get_velocity(z, noise, timesteps)
            extra = {"class_labels": pooled} if unet.config.get("class_embed_type") == "projection" else {}
            found = unet(noisy, timesteps, states, return_dict=False, **extra)[0]
            loss = torch.nn.functional.mse_loss(found.float(), target.float(), reduction="mean")
        loss.item()  # the script gathers it in every step
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _encode(self) -> Tensor:
        codec = self.backbone.codec
        x = self.images.expand(-1, int(codec.config["in_channels"]), -1, -1)
        encoded = codec.encode(x) if hasattr(codec, "quant_conv") else None
        z: Tensor = encoded.latent_dist.sample() if encoded is not None else latent(codec, x)
        return z * self.backbone.scale

    @torch.no_grad()
    def _embed(self) -> tuple[Tensor, Tensor]:
        """States padded to the tower's length; no mask goes with them."""
        cond = self.backbone.embed([REPORT] * self.batch)
        missing = max(0, self.backbone.text.max_tokens - cond.states.shape[1])
        return torch.nn.functional.pad(cond.states, (0, 0, 0, missing)), cond.pooled
