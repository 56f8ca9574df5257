"""Precision: which one a machine computes quickly, and a network's weights put into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bf16", "auto")


def quick(device: torch.device | str) -> bool:
    """Whether a device computes bfloat16 quicker than float32: it has units for it.

    Without them a bfloat16 convolution on a CPU is ten times slower than float32.
    """
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # without oneDNN it cannot be asked
    return bool(known and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve(asked: str, device: torch.device | str) -> str:
    """float32 or bf16: what was asked, and for auto what the device computes quickly."""
    if asked not in PRECISIONS:
        raise ValueError(f"precision {asked!r}: give one of {', '.join(PRECISIONS)}")
    return ("bf16" if quick(device) else "float32") if asked == "auto" else asked


def check_exact(exact: bool, precision: str) -> None:
    """Refuse the same bits in any batch of a network that computes in another precision than float32."""
    if exact and precision != "float32":
        raise ValueError(
            f"exact images are made in float32, but the model computes in {precision}: leave one of both out"
        )


def lower(network: nn.Module) -> None:
    """Put a network's weights into bfloat16, once and in place, so that it computes in it.

    Group normalization stays float32: torch's for bfloat16 with channels last takes five times as long. What is put
    into the network afterwards, such as LoRA, keeps its own precision.
    """
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_raised)
            module.register_forward_hook(_lowered)
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.bfloat16)


def lower_decoder(codec: Any) -> None:
    """As `lower`, the decoder of an autoencoder: latents and images stay float32, and so does its last convolution."""
    decoder = codec.decoder
    last = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)][-1]
    weights = [(parameter, parameter.data) for parameter in last.parameters()]
    lower(decoder)
    for parameter, data in weights:  # images have more shades than bfloat16 has near white
        parameter.data = data
    last.register_forward_pre_hook(_raised)
    decoder.register_forward_pre_hook(lambda _, given: (given[0].to(torch.bfloat16), *given[1:]))


def _raised(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (given[0].float(), *given[1:])


def _lowered(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
    return out.to(torch.bfloat16)
