"""The nouns every floor shares: Denoise, State, and noise that depends on one integer per image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# (x, sigma) -> x0. x is (B, C, H, W), sigma a 0-d tensor shared by the batch; x0 has the shape of x.
Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class State:
    """One step of a solver: where the sample is and what the clean image is believed to be.

    i      steps taken, 1 ... n
    sigma  noise level that x is now at; 0 after the last step
    x      (B, C, H, W)  the sample; of the last State, the result
    x0     (B, C, H, W)  the denoiser's estimate that led here: the preview
    nfe    network evaluations so far, as the solver asked for them
    """

    i: int
    sigma: float
    x: Tensor
    x0: Tensor
    nfe: int


def counter(*words: object) -> int:
    """A 63-bit seed from words: the same words give the same seed, in any process and any order of calls.

    Every random draw of a long job is seeded by what it is for (run seed, purpose, step, sample id), never by
    what was drawn before it, so that a resumed run repeats the uninterrupted one bit for bit.
    """
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*words: object) -> torch.Generator:
    """A CPU generator seeded by `counter(*words)`."""
    return torch.Generator().manual_seed(counter(*words))


def normal(shape: Sequence[int], seeds: Iterable[int], *, purpose: str = "noise") -> Tensor:
    """Standard normal noise, one integer seed per image: image k does not depend on its batch.

    shape  (C, H, W) of one image; the result is (len(seeds), C, H, W), float32 on the CPU.
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator(purpose, seed)) for seed in seeds])


def expand(value: Tensor, like: Tensor) -> Tensor:
    """`value` of shape () or (B,), shaped to broadcast over `like` (B, C, H, W), in its dtype and device."""
    value = value.to(like)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))
