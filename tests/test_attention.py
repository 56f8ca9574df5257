"""Attention by blocks: exact attention within bfloat16's rounding, and only where it is quicker."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import vlgen.attention as blocks
from vlgen.attention import BLOCK, LONG, attend, blockwise
from vlgen.benchmark.attention import attention_timing

# Logits of size 1 are rounded to 2^-9 of themselves, and so are weights and values: 0.6 % was seen, torch's is 0.4 %.
ROUNDING = 0.01


def drawn(b: int, h: int, n: int, m: int, d: int, *, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, h, length, d, generator=g) for length in (n, m, m))
    return tuple(x.to(torch.bfloat16) for x in (q, k + offset * torch.randn(d, generator=g), v))


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def off(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("shape", [(2, 3, 300, 300, 16), (1, 2, BLOCK, 70, 8), (1, 1, 1, 1, 4), (1, 2, 515, 1024, 40)])
def test_it_is_attention(shape: tuple[int, int, int, int, int]) -> None:
    q, k, v = drawn(*shape)
    found = attend(q, k, v)
    assert found.shape == q.shape and found.dtype == torch.bfloat16 and found.is_contiguous()
    assert off(found, exact(q, k, v)) < ROUNDING


@pytest.mark.parametrize("offset", [16.0, 64.0])
def test_a_vector_that_all_keys_share_does_not_matter(offset: float) -> None:
    """Softmax does not see it, but logits that hold it are large, and rounded by as much: as with torch in bfloat16."""
    q, k, v = drawn(1, 2, 600, 600, 40, offset=offset)
    plain = (q * 40**-0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
    truth = exact(q, k, v)
    assert off(attend(q, k, v), truth) < 2 * ROUNDING < off(plain, truth)


def test_its_error_is_less_than_twice_that_of_torch() -> None:
    """Against attention on inputs before they were rounded, as a network in float32 has them; 1.5 times was seen."""
    g = torch.Generator().manual_seed(0)
    exactly = [torch.randn(1, 4, 1500, 40, generator=g) for _ in range(3)]
    q, k, v = (x.to(torch.bfloat16) for x in exactly)
    truth = exact(*exactly)
    assert off(attend(q, k, v), truth) < 2 * off(scaled_dot_product_attention(q, k, v), truth)


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, v = drawn(1, 2, 8, 8, 4)
    for wrong in ((q[0], k, v), (q, k, v[:, :, :4]), (q, k[..., :2], v[..., :2]), (q, k[:, :1], v[:, :1])):
        with pytest.raises(ValueError, match=r"give \(B, H, N, d\)"):
            attend(*wrong)


def network() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=8,
        )
        .eval()
        .to(torch.bfloat16)
    )


def test_a_network_uses_it_for_long_sequences_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    real = blocks.attend
    monkeypatch.setattr(blocks, "attend", lambda q, k, v: (lengths.append(q.shape[2]), real(q, k, v))[1])
    unet = network()
    g = torch.Generator().manual_seed(0)
    long, short = (torch.randn(1, 4, side, side, generator=g).to(torch.bfloat16) for side in (32, 16))
    states, mask = torch.randn(1, 7, 8, generator=g).to(torch.bfloat16), torch.ones(1, 7, dtype=torch.bool)

    def answer(x: Tensor) -> Tensor:
        return unet(x, 10.0, encoder_hidden_states=states, encoder_attention_mask=mask).sample

    with torch.no_grad():
        before = answer(long), answer(short)
        blockwise(unet)
        after = answer(long), answer(short)
    assert lengths and set(lengths) == {LONG}, "self-attention; texts are short, and come with a mask"
    assert torch.equal(before[1], after[1]) and not torch.equal(before[0], after[0])
    lengths.clear()
    answer(long.requires_grad_()).float().sum().backward()
    assert not lengths and float(long.grad.norm()) > 0, "gradients go the usual way"
    with torch.no_grad():
        truth = unet.float()(long.float(), 10.0, encoder_hidden_states=states.float()).sample.double()
    assert not lengths, "float32 is left to torch"
    assert off(after[0], truth) < 1.5 * off(before[0], truth), "what the rest of the network rounds is as much"


def test_the_benchmark_prints_ratio_and_errors() -> None:
    found = attention_timing(((1, 2, 1024, 16),), repeats=1)
    row = found["1 x 2 x 1024 x 16"]
    assert row["ratio"] == pytest.approx(row["theirs_cpu_s"] / row["cpu_s"])
    assert 0 < row["rounding"] < row["theirs"] < row["error"] < 2 * ROUNDING
