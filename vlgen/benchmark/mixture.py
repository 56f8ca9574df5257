"""Mixture: data whose denoiser is known exactly, at every noise level and under every kernel.

The data are a mixture of isotropic Gaussians. Given the kernel's scalar s, a noisy image of component k is normal with
variance std_k^2 + (sigma s)^2, so that everything below is one sum over components and over s. For the Gaussian kernel
s = 1. For PFGM++ the sum over s is a trapezoid rule in log s, which converges faster than any power of the number of
nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlgen.tensors import Denoise


@dataclass(frozen=True)
class Mixture:
    """sum_k weights_k N(means_k, stds_k^2 I), in float64.

    weights  (K,)          sum to 1
    means    (K, C, H, W)
    stds     (K,)          0 is a point mass
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n clean images (n, C, H, W) and their components (n,)."""
        draw = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, n, replacement=True, generator=draw)
        z = torch.randn((n, *self.means.shape[1:]), generator=draw, dtype=torch.float64)
        return self.means[component] + self.stds[component].reshape(-1, 1, 1, 1) * z, component

    def nearest(self, x: Tensor) -> Tensor:
        """The component (B,) whose mean is closest to each image."""
        return torch.cdist(x.flatten(1), self.means.flatten(1)).argmin(1)

    def noisy(self, n: int, sigma: float, seed: int, D: float = math.inf) -> Tensor:
        """n draws of y + sigma * s * z, the exact marginal at level sigma."""
        y, _ = self.sample(n, seed)
        draw = torch.Generator().manual_seed(seed + 1)
        z = torch.randn(y.shape, generator=draw, dtype=torch.float64)
        if math.isinf(D):
            return y + sigma * z
        half = torch.full((n, 1, 1, 1), D / 2, dtype=torch.float64)
        return y + sigma * (D / (2 * torch._standard_gamma(half, generator=draw))).sqrt() * z

    def standardized(self, x: Tensor, sigma: float) -> Tensor:
        """Images less the mean of their nearest mode, over its spread at level sigma."""
        mode = self.nearest(x)
        spread = (self.stds[mode] ** 2 + sigma**2).sqrt()
        return (x - self.means[mode]) / spread.reshape(-1, 1, 1, 1)

    def denoiser(self, D: float = math.inf, nodes: int = 400) -> Denoise:
        """E[y | x] where x = y + sigma * s * z, exact for the kernel with D degrees of freedom.

        nodes  of the sum over s: 400 leave rounding alone, 60 an error of 1e-9
        """

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            log_joint, noise = self._log_joint(x, sigma, D, nodes)
            share = log_joint.flatten(1).softmax(1).reshape(log_joint.shape)
            kept = self.stds**2 / (self.stds**2 + noise)  # E[y | x, s, k] = kept x + (1 - kept) mean_k
            to_means = (share * (1 - kept)).sum(1) @ self.means.flatten(1)
            return (share * kept).sum((1, 2)).reshape(-1, 1, 1, 1) * x + to_means.reshape(x.shape)

        return denoise

    def log_density(self, x: Tensor, sigma: Tensor, D: float = math.inf) -> Tensor:
        """log p(x; sigma) (B,) of the noisy images."""
        return self._log_joint(x, sigma, D)[0].flatten(1).logsumexp(1)

    def _log_joint(self, x: Tensor, sigma: Tensor, D: float, nodes: int = 400) -> tuple[Tensor, Tensor]:
        """log p(x, s_j, component k) as (B, J, K), and the noise variance (sigma s_j)^2 as (J, 1)."""
        s, log_s = scale_nodes(D, nodes)
        noise = (sigma.double() * s)[:, None] ** 2
        variance = self.stds**2 + noise
        distance = ((x.flatten(1)[:, None] - self.means.flatten(1)) ** 2).sum(2)[:, None]
        size = self.means[0].numel()
        log_x = -distance / (2 * variance) - size / 2 * torch.log(2 * math.pi * variance)
        return log_s[:, None] + self.weights.log() + log_x, noise


def scale_nodes(D: float, nodes: int = 400) -> tuple[Tensor, Tensor]:
    """Values of s = sqrt(D / chi2_D), evenly spaced in log s, and their log probabilities; both (nodes,)."""
    if math.isinf(D):
        return torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ends = [_fallen(D, sign) for sign in (-1, 1)]
    log_chi2 = torch.linspace(ends[0], ends[1], nodes, dtype=torch.float64)
    chi2 = log_chi2.exp()
    log_s = D / 2 * log_chi2 - chi2 / 2  # the density of log chi2, and so of log s, but for a factor
    return (D / chi2).sqrt(), log_s - log_s.logsumexp(0)


def _fallen(D: float, sign: int) -> float:
    """log chi2 on one side of its peak at log D, where its density has fallen by e^36, which is rounding."""

    def fallen(u: float) -> bool:  # u = log chi2 - log D
        return D / 2 * (u - math.expm1(u)) < -36

    near, far = 0.0, float(sign)
    while not fallen(far):
        near, far = far, 2 * far
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (near, middle) if fallen(middle) else (middle, far)
    return math.log(D) + far


THREE = Mixture(
    torch.tensor([0.2, 0.3, 0.5]).double(),
    torch.tensor([[2.0, 0.0, 1.0, -1.0], [-2.0, 1.0, 0.0, 1.0], [0.0, -2.0, -2.0, 0.0]]).double().reshape(3, 1, 2, 2),
    torch.tensor([0.3, 0.5, 0.4]).double(),
)
