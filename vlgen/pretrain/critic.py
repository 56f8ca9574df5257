"""The critic of a decoder: a network that tells patches of real images from decoded ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class Critic(nn.Sequential):
    """A score for every patch of some 50 pixels of an image (B, 1, H, W): high for what looks real.

    Isola et al. 2017, arXiv:1611.07004, section 3.2.2, with group normalization in place of batch normalization, so
    that an image's score is its own.
    """

    def __init__(self, width: int = 32) -> None:
        slope = nn.LeakyReLU(0.2)
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), slope]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 4, 2, 1), nn.GroupNorm(8, 2 * channels), slope]
        layers += [nn.Conv2d(4 * width, 4 * width, 3, 1, 1), nn.GroupNorm(8, 4 * width), slope]
        super().__init__(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))


def verdict(critic: nn.Module, real: Tensor, decoded: Tensor) -> Tensor:
    """The hinge loss of the critic, which leaves the decoder alone: a 0-d tensor, 2 for one that cannot tell.

    Lim and Ye 2017, arXiv:1705.02894, eq. 6.
    """
    high, low = critic(torch.cat([real, decoded.detach()])).float().chunk(2)
    return F.relu(1 - high).mean() + F.relu(1 + low).mean()


def objection(critic: nn.Module, decoded: Tensor) -> Tensor:
    """The decoder's loss before a critic that it cannot change: minus its mean score, a 0-d tensor."""
    frozen = {name: value.detach() for name, value in critic.named_parameters()}
    score: Tensor = functional_call(critic, frozen, (decoded,))
    return -score.float().mean()


def balanced(y: Tensor, first: Tensor, second: Tensor, weight: float) -> Tensor:
    """first + lambda * second as a loss of the images y, where second pulls at y `weight` times as hard as first.

    lambda = weight |d first / dy| / |d second / dy|, for the batch. As Esser et al. 2021, arXiv:2012.09841, eq. 7, with
    the pull measured on the images themselves, where both gradients are known anyway. The value is that of `first`.
    """
    a, b = (torch.autograd.grad(loss, y, retain_graph=True)[0].detach() for loss in (first, second))
    pull = a + weight * a.norm() / (b.norm() + 1e-8) * b
    surrogate = (y * pull).sum()
    return first.detach() + surrogate - surrogate.detach()
