"""The time and the error of attention by blocks, beside scaled_dot_product_attention."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlgen.attention import attend
from vlgen.tensors import generator

# (B, H, N, d): a UNet of Stable Diffusion's size at 512 pixels, one image; both halves of guidance at 256 pixels
SHAPES = ((1, 8, 4096, 40), (2, 8, 1024, 80))


def attention_timing(
    shapes: tuple[tuple[int, int, int, int], ...] = SHAPES, *, repeats: int = 5
) -> dict[str, dict[str, float]]:
    """CPU seconds of self-attention in bfloat16 by blocks and by torch, in turn, the fastest of `repeats` each.

    ratio          torch's seconds over ours
    error, theirs  relative root mean square error, ours and torch's, against attention in float64 of the inputs before
                   they were rounded to bfloat16; rounding, of exact attention on the rounded inputs

    Inputs are standard normal, their keys moved away from zero by a vector shared by all, as networks have them.
    """
    found = {}
    for shape in shapes:
        draw = generator("attention", *shape)
        exact = [torch.randn(shape, generator=draw) for _ in range(3)]
        exact[1] = exact[1] + torch.randn(shape[-1], generator=draw)
        q, k, v = (part.to(torch.bfloat16) for part in exact)
        best: dict[Callable[..., Tensor], float] = {attend: float("inf"), scaled_dot_product_attention: float("inf")}
        with torch.inference_mode():
            truth = _exact(*exact)
            for turn in range(repeats + 1):  # the first is the warm-up
                for work in best:
                    began = time.process_time()
                    work(q, k, v)
                    if turn:
                        best[work] = min(best[work], time.process_time() - began)
            found[" x ".join(map(str, shape))] = {
                "cpu_s": best[attend],
                "theirs_cpu_s": best[scaled_dot_product_attention],
                "ratio": best[scaled_dot_product_attention] / best[attend],
                "error": _relative(attend(q, k, v), truth),
                "theirs": _relative(scaled_dot_product_attention(q, k, v), truth),
                "rounding": _relative(_exact(q, k, v), truth),
                "n": repeats,
            }
    return found


def _exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float64, head by head."""
    out = torch.empty(q.shape, dtype=torch.float64)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            keys, values = k[row, head].double(), v[row, head].double()
            logits = q[row, head].double() @ keys.T * q.shape[-1] ** -0.5
            out[row, head] = logits.softmax(-1) @ values
    return out


def _relative(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())
