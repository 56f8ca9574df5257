"""The network of a fine-tune: what is trained of a backbone, as one module, and the backbone laid out to compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.backbone import Backbone
from vlgen.text import Cond, TextEncoder

SHORT = 1024  # tokens up to which attention on a CPU is quicker written out than as scaled_dot_product_attention


class Trained(nn.Module):
    """The trained parameters of a backbone as a module: all that is optimized, averaged and saved.

    The frozen parts lie outside it; forward is `backbone.denoise` through them. Conditions come ready, or, where the
    text tower is trained too, as texts.
    """

    def __init__(self, backbone: Backbone, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        for k, parameter in enumerate(parameters):
            self.register_parameter(f"p{k:05d}", parameter)
        self._backbone = [backbone]  # in a list: what is frozen is no submodule

    def forward(self, z: Tensor, sigma: Tensor, cond: Cond | Sequence[str]) -> Tensor:
        return self.denoise(z, sigma, cond)

    def denoise(self, z: Tensor, sigma: Tensor, cond: Cond | Sequence[str]) -> Tensor:
        """As forward, in the precision of the weights, whatever accelerate has wrapped around forward."""
        backbone = self._backbone[0]
        told = cond if isinstance(cond, Cond) else read(backbone.text, cond)
        return backbone.denoise(z, sigma, told)

    def settle(self, targets: Sequence[str]) -> None:
        """Round the weights to float16, as a LoRA is stored, before they are measured; those of `full` stay."""
        with torch.no_grad():
            for parameter in () if "full" in targets else self.parameters():
                parameter.copy_(parameter.half())

    def train(self, mode: bool = True) -> Trained:
        self._backbone[0].unet.train(mode)
        super().train(mode)
        return self


def read(encoder: TextEncoder, texts: Sequence[str]) -> Cond:
    """The conditions of texts with the way back for gradients, which `TextEncoder.__call__` cuts off."""
    with_gradient: Any = type(encoder).__call__.__wrapped__  # type: ignore[attr-defined]
    found: Cond = with_gradient(encoder, texts)
    return found


def layout(device: torch.device, mixed: str) -> torch.memory_format:
    """How images and weights should lie in memory for a training step on this device.

    In bfloat16 on a CPU the convolutions are as quick either way, and group normalization ten times quicker where each
    channel lies in one piece; everywhere else channels last is quicker.
    """
    plain = device.type == "cpu" and mixed == "bf16"
    return torch.contiguous_format if plain else torch.channels_last


class arranged:
    """Inside the `with`, the UNet is laid out so that its training step is quick on this machine; then as it was.

    Under bf16 the frozen weights are bfloat16 and the trained ones float32. `resting` is a `with` inside it in which
    the UNet is as it was: images that people look at, and what is measured, are made in float32.
    """

    def __init__(self, backbone: Backbone, mixed: str) -> None:
        self.backbone, self.mixed = backbone, mixed
        self.undo: list[Callable[[], object]] = []

    def __enter__(self) -> arranged:
        from diffusers.models.attention_processor import AttnProcessor

        unet, device = self.backbone.unet, self.backbone.device
        side, before = self.backbone.shape[-1], dict(unet.attn_processors)
        if device.type == "cpu" and side * side <= SHORT:
            # The backward pass of scaled_dot_product_attention in bfloat16 takes ten times that of two matrix products.
            unet.set_attn_processor(AttnProcessor())
            self.undo.append(lambda: unet.set_attn_processor(dict(before)))
        if self.mixed == "bf16":
            frozen = [(parameter, parameter.data) for parameter in unet.parameters() if not parameter.requires_grad]
            for parameter, data in frozen:
                parameter.data = data.to(torch.bfloat16)
            self.undo.append(lambda: _put_back(frozen))
        if layout(device, self.mixed) is torch.contiguous_format:
            unet.to(memory_format=torch.contiguous_format)
            handle = unet.register_forward_pre_hook(_plain)
            self.undo += [handle.remove, lambda: unet.to(memory_format=torch.channels_last)]
        return self

    def __exit__(self, *_: object) -> None:
        while self.undo:
            self.undo.pop()()

    @contextmanager
    def resting(self) -> Iterator[None]:
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def _put_back(frozen: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, data in frozen:
        parameter.data = data


def _plain(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (given[0].contiguous(), *given[1:])
