"""Attention: long sequences on a CPU in bfloat16, a block of queries at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LONG = 1024  # tokens from which blocks are quicker than scaled_dot_product_attention
BLOCK = 256  # queries whose weights stay in a core's cache


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, computed for 256 queries at a time by two matrix products each.

    q     (B, H, N, d)  bfloat16; k and v (B, H, M, d)

    On a CPU scaled_dot_product_attention is no quicker in bfloat16 than in float32; matrix products are, so that this
    takes about half its time from some 1000 tokens on. The logits are rounded to bfloat16, so the mean key is taken
    off first: it adds the same to all logits of a query, which the softmax does not see, and what is left is smaller.
    Without a way back for gradients.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        shapes = ", ".join(str(tuple(part.shape)) for part in (q, k, v))
        raise ValueError(f"queries, keys and values of shapes {shapes}: give (B, H, N, d) and twice (B, H, M, d)")
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    k = ((k - k.float().mean(2, keepdim=True)) * q.shape[-1] ** -0.5).to(q.dtype)  # rounded once
    with torch.no_grad():
        for row in range(q.shape[0]):
            for head in range(q.shape[1]):
                keys, values = k[row, head].t().contiguous(), v[row, head].contiguous()
                for start in range(0, q.shape[2], BLOCK):
                    part = slice(start, start + BLOCK)
                    torch.mm(torch.softmax(q[row, head, part] @ keys, -1), values, out=out[row, head, part])
    return out


def blockwise(network: nn.Module) -> None:
    """Let every attention of a diffusers network attend by blocks where that is quicker: on a CPU, in bfloat16, long.

    What else it is asked (short sequences, texts with a mask, gradients, other devices) it answers as before.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    class Blockwise(AttnProcessor2_0):
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not (_suits(hidden_states) and _plain(attn) and _alone(args, kwargs)):
                found: Tensor = super().__call__(attn, hidden_states, *args, **kwargs)
                return found
            q, k, v = (
                project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for project in (attn.to_q, attn.to_k, attn.to_v)
            )
            x: Tensor = attn.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
            return attn.to_out[1](x) / attn.rescale_output_factor  # type: ignore[no-any-return]

    made: Any = Blockwise  # diffusers names one of its own classes as what it takes
    for module in network.modules():
        if isinstance(module, Attention) and type(module.processor).__name__ == AttnProcessor2_0.__name__:
            module.set_processor(made())


def _suits(x: Tensor) -> bool:
    inside = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    return inside and x.ndim == 3 and x.shape[1] >= LONG


def _plain(attn: Any) -> bool:
    """Whether an attention is projections and softmax alone, as in the transformer blocks of a UNet."""
    extra = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k)
    return all(part is None for part in extra) and not attn.residual_connection


def _alone(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a sequence attends to itself, all of it."""
    return all(value is None for value in (*args, *kwargs.values()))
