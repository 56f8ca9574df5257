"""A perceptual distance: how far two images are in the early features of a network that knows natural images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_BLOCKS = (0, 2, 4, 10)  # of EfficientNet-Lite0: strides 2, 4, 8 and 16


class Perceptual(nn.Module):
    """The mean squared distance of unit-length features, averaged over four depths of EfficientNet-Lite0.

    Zhang et al. 2018, arXiv:1801.03924, eq. 1 with all weights one. Its parameters are frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        from vlgen.features.natural import lite0

        self.network: Any = lite0()[0].requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Perceptual:
        return self  # its batch normalization never learns

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of two batches (B, 1, H, W) in [-1, 1]: a 0-d tensor."""
        seen = self._features(torch.cat([x, y]))
        total = x.new_zeros(())
        for features in seen:
            a, b = nn.functional.normalize(features.float(), dim=1).chunk(2)
            total = total + (a - b).square().sum(1).mean()
        return total / len(seen)

    def _features(self, x: Tensor) -> list[Tensor]:
        network, found = self.network, []
        # the network's own scale: (255 v - 127) / 128 of v in [0, 1]
        h = ((x + 1) * 127.5 - 127) / 128
        h = network._swish(network._bn0(network._conv_stem(h.expand(-1, 3, -1, -1))))
        for index, block in enumerate(network._blocks):
            h = block(h)
            if index in _BLOCKS:
                found.append(h)
            if index == _BLOCKS[-1]:
                return found
        return found
