"""PSNR, NRMSE, SSIM and MS-SSIM against torchmetrics, and against what can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlgen.metrics.image import ms_ssim, nrmse, psnr, ssim


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[0] += 0.1
    assert math.isclose(float(psnr(y, x, peak=2.0)[0]), 10 * math.log10(4 / 0.01), rel_tol=1e-6)
    assert float(psnr(y, x, peak=2.0)[1]) == math.inf


def test_equal_to_torchmetrics() -> None:
    reference = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics comes with the dev extra")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 48, 40, generator=g)
    y = (x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    theirs = reference.peak_signal_noise_ratio(y, x, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(psnr(y, x, peak=1.0).float(), theirs, rtol=1e-5)
    # torchmetrics pads by reflection and counts those windows too: the paper's are the ones inside
    theirs = reference.structural_similarity_index_measure
    _, whole = theirs(y, x, data_range=1.0, reduction="none", return_full_image=True)
    theirs = whole[..., 5:-5, 5:-5].mean((1, 2, 3))
    assert torch.allclose(ssim(y, x, peak=1.0).float(), theirs, atol=1e-5), "theirs is computed in float32"


@given(st.integers(0, 1000), st.floats(0.01, 0.5))
@settings(max_examples=20, deadline=None)
def test_laws(seed: int, noise: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, n = torch.rand(2, 1, 16, 16, generator=g), torch.randn(2, 1, 16, 16, generator=g)
    assert torch.allclose(ssim(x, x, peak=1.0), torch.ones(2, dtype=torch.float64))
    assert bool((psnr(x + noise * n, x, peak=1.0) > psnr(x + 2 * noise * n, x, peak=1.0)).all())
    both = ssim(x + noise * n, x, peak=1.0)
    assert torch.allclose(both.flip(0), ssim((x + noise * n).flip(0), x.flip(0), peak=1.0)), "per image"
    assert bool((both < 1).all())


def test_nrmse_of_a_known_error() -> None:
    reference = torch.full((3, 1, 4, 4), 2.0)
    x = reference.clone()
    x[1] += 0.5
    x[2] = 0
    assert nrmse(x, reference).tolist() == [0, 0.25, 1]
    assert nrmse(10 * x, 10 * reference).tolist() == [0, 0.25, 1], "the same in any multiple of the unit"
    with pytest.raises(ValueError, match="1 of 3 references are all zero"):
        nrmse(reference, x)
    with pytest.raises(ValueError, match="one shape"):
        nrmse(x, x[:2])


def test_ms_ssim_equals_torchmetrics_scale_by_scale() -> None:
    reference = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics comes with the dev extra")
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(2, 1, 192, 212, generator=g), 9, 1, 4).double()
    y = x + 0.1 * torch.randn(x.shape, generator=g)
    y[1] += 0.2
    found = ms_ssim(y, x, peak=1.0)
    expected = torch.ones(2, dtype=torch.float64)
    for i, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        a, b = (torch.nn.functional.avg_pool2d(image, 2**i) for image in (y, x))
        options = {"data_range": 1.0, "reduction": "none"}
        measure = reference.structural_similarity_index_measure
        if i < 4:  # torchmetrics crops its padding from contrast and structure, as the paper has it
            _, value = measure(a, b, **options, return_contrast_sensitivity=True)
        else:  # but not from the last scale's index
            value = measure(a, b, **options, return_full_image=True)[1][..., 5:-5, 5:-5].mean((1, 2, 3))
        expected = expected * value**exponent
    assert torch.allclose(found, expected, rtol=1e-5), "torchmetrics makes its window in float32"
    assert bool((found > 0.1).all() and (found < 0.99).all()), "the test has power"


def test_laws_of_ms_ssim() -> None:
    g = torch.Generator().manual_seed(1)
    x, n = torch.rand(2, 1, 176, 176, generator=g), torch.randn(2, 1, 176, 176, generator=g)
    assert torch.allclose(ms_ssim(x, x, peak=1.0), torch.ones(2, dtype=torch.float64))
    near, far = ms_ssim(x + 0.1 * n, x, peak=1.0), ms_ssim(x + 0.3 * n, x, peak=1.0)
    assert bool((far < near).all() and (near < 1).all())
    assert torch.allclose(ms_ssim((x + 0.1 * n)[1:], x[1:], peak=1.0), near[1:]), "per image"
    assert torch.allclose(ms_ssim(2 * (x + 0.1 * n), 2 * x, peak=2.0), near), "in any unit"
    assert ms_ssim(1 - x, x, peak=1.0).tolist() == [0, 0], "anticorrelated"
    with pytest.raises(ValueError, match="at least 176"):
        ms_ssim(x[..., :175], x[..., :175], peak=1.0)
    with pytest.raises(ValueError, match="peak"):
        ms_ssim(x, x, peak=-1.0)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, x[..., :8], peak=1.0)
    with pytest.raises(ValueError, match="peak"):
        ssim(x, x, peak=0.0)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(x[..., :8, :8], x[..., :8, :8], peak=1.0)
