"""The critic of a decoder, and the latents that a sampler leaves: exact pulls, and nothing that learns by mistake."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from vlgen.pretrain.critic import Critic, balanced, objection, verdict
from vlgen.pretrain.decoder import windows


def image(n: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_the_second_loss_pulls_in_proportion_to_the_first(weight: float) -> None:
    target, direction = image(), torch.ones(2, 1, 32, 32)
    leaf = image().mul(2).requires_grad_()
    y = leaf * 1.0
    loss = balanced(y, (y - target).square().sum(), 1000 * (y * direction).sum(), weight)
    loss.backward()
    first = 2 * (leaf.detach() - target)
    expected = first + weight * first.norm() * direction / direction.norm()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-5, atol=1e-5)  # float32 sums of 2,048 terms
    torch.testing.assert_close(loss.detach(), (leaf.detach() - target).square().sum())


def test_a_second_loss_that_pulls_nowhere_changes_nothing() -> None:
    leaf = image().requires_grad_()
    y = leaf * 1.0
    balanced(y, y.sum(), 0 * y.sum(), 1.0).backward()
    assert leaf.grad is not None and bool((leaf.grad == 1).all())


def test_critic_and_decoder_learn_from_their_own_losses_alone() -> None:
    torch.manual_seed(0)
    critic, real, decoded = Critic(8), image(), image().mul(0.3).requires_grad_()
    verdict(critic, real, decoded).backward()
    assert decoded.grad is None and all(p.grad is not None for p in critic.parameters())
    critic.zero_grad()
    objection(critic, decoded).backward()
    assert decoded.grad is not None and all(p.grad is None for p in critic.parameters())


def test_the_hinge_is_two_for_whoever_cannot_tell_and_zero_for_whoever_can() -> None:
    real, decoded = image() + 10, image() - 10
    blind = torch.nn.Flatten()
    torch.testing.assert_close(verdict(lambda x: 0 * blind(x), real, decoded), torch.tensor(2.0))  # type: ignore[arg-type]
    torch.testing.assert_close(verdict(lambda x: blind(x), real, decoded), torch.tensor(0.0))  # type: ignore[arg-type]
    assert float(verdict(lambda x: -blind(x), real, decoded)) > 2  # type: ignore[arg-type]


def test_a_critic_tells_smooth_from_sharp() -> None:
    torch.manual_seed(0)
    critic = Critic(8)
    step = torch.optim.AdamW(critic.parameters(), lr=1e-3)
    for k in range(40):
        real = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(k))
        step.zero_grad()
        loss = verdict(critic, real, F.avg_pool2d(real, 3, 1, 1) * 3)
        loss.backward()
        step.step()
    assert float(loss.detach()) < 0.5
    torch.testing.assert_close(critic(real)[:1], critic(real[:1]), atol=1e-5, rtol=1e-5)  # an image's score is its own


def test_pieces_of_images_and_of_latents_are_from_the_same_places() -> None:
    z = torch.arange(2 * 6 * 6, dtype=torch.float32).reshape(2, 1, 6, 6)
    pixels = F.interpolate(z, scale_factor=4)
    g = torch.Generator().manual_seed(1)
    x, part = windows(SimpleNamespace(pixels=pixels.half()), z.half(), [1, 0, 1], 8, g)  # type: ignore[arg-type]
    assert x.shape == (3, 1, 8, 8) and part.shape == (3, 1, 2, 2)
    assert torch.equal(F.avg_pool2d(x, 4), part) and len({float(v[0, 0, 0]) for v in part}) == 3
