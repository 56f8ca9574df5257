"""Rounding: a backbone whose network has weights of few bits, as a small device would hold them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlgen.backbone import Backbone


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Weights (out, ...) as integers of so many bits times one scale for each output channel, symmetric about 0.

    The scale is max |w| / (2^(bits - 1) - 1), so that the largest weight of a channel stays what it is.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"{bits} bits were asked for: give 2 to 16")
    top = 2 ** (bits - 1) - 1
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / top
    shape = (-1, *[1] * (weight.ndim - 1))
    each = scale.reshape(shape)
    found: Tensor = (weight / each).round() * each
    return found


@torch.no_grad()
def round_unet(backbone: Backbone, bits: int) -> int:
    """Round every linear and convolution weight of the UNet in place, its adapters merged into them before.

    Biases and norms stay. Returns how many weights were rounded. The backbone is of no use for anything else then.
    """
    from peft.tuners.lora import LoraLayer

    count = 0
    for module in backbone.unet.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    for name, module in backbone.unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and ".lora_" not in name:
            module.weight.copy_(rounded(module.weight.float(), bits))
            count += module.weight.numel()
    return count
