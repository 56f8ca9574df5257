"""PSNR, NRMSE, SSIM and MS-SSIM against torchmetrics and scikit-image, and what can be computed by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vlgen.metrics.image import mae, ms_ssim, nrmse, psnr, rmse, ssim

POINTWISE = [partial(psnr, peak=1.0), nrmse, rmse, mae]


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


def couple(n: int, c: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images with as much noise again."""
    g = torch.Generator().manual_seed(seed)
    x = F.avg_pool2d(torch.rand(n, c, height + 4, width + 4, generator=g), 5, 1).double()
    return x + 0.1 * torch.randn(x.shape, generator=g), x


def test_errors_in_the_unit_of_the_images() -> None:
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[0, 0, 0] = -8.0  # a quarter of the pixels
    assert rmse(y, x).tolist() == [4, 0] and mae(y, x).tolist() == [2, 0]
    for measure in (rmse, mae):
        with pytest.raises(ValueError, match="one shape"):
            measure(x, x[:1])


def test_a_mask_of_ones_changes_nothing() -> None:
    y, x = couple(2, 3, 176, 180)
    for measure in (*POINTWISE, partial(ssim, peak=1.0), partial(ms_ssim, peak=1.0)):
        for ones in (
            torch.ones(2, 1, 176, 180, dtype=torch.bool),
            torch.ones(2, 3, 176, 180),
            torch.ones_like(x).int(),
        ):
            assert torch.allclose(measure(y, x, mask=ones), measure(y, x), rtol=1e-12)


def test_what_lies_outside_the_mask_is_not_seen() -> None:
    y, x = couple(2, 3, 20, 24)
    mask = torch.zeros(2, 1, 20, 24, dtype=torch.bool)
    mask[0, :, 3:12, 5:16] = True
    mask[1, :, 10:11, 1:3] = True
    for value in (7.0, -1e30, math.nan, math.inf):
        wrong = [torch.where(mask, image, value) for image in (y, x)]
        for measure in POINTWISE:
            assert torch.equal(measure(*wrong, mask=mask), measure(y, x, mask=mask)), "not at all"
    for measure in POINTWISE:
        cut = [image[:1, :, 3:12, 5:16] for image in (y, x)]
        assert torch.allclose(measure(y, x, mask=mask)[:1], measure(*cut), rtol=1e-12), "as if it were cut out"
        assert not torch.allclose(measure(y, x, mask=mask), measure(y, x), rtol=1e-3), "the test has power"
        assert torch.equal(measure(y, x, mask=mask.float()), measure(y, x, mask=mask.expand_as(x)))
        assert torch.equal(measure(y[1:], x[1:], mask=mask[1:]), measure(y, x, mask=mask)[1:]), "per image"


def test_masked_ssim_is_the_mean_of_the_map_in_the_mask() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a reference, not a dependency")
    y, x = couple(2, 1, 40, 48)
    mask = torch.rand(2, 1, 40, 48, generator=torch.Generator().manual_seed(3)) < 0.3
    found = ssim(y, x, peak=1.0, mask=mask)
    for k in range(2):
        _, whole = metrics.structural_similarity(
            x[k, 0].numpy(),
            y[k, 0].numpy(),
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        inside = mask[k, 0].clone()
        inside[:5] = inside[-5:] = inside[:, :5] = inside[:, -5:] = False  # windows that leave the image
        assert math.isclose(float(found[k]), whole[inside.numpy()].mean(), rel_tol=1e-9)
    edge = torch.zeros(2, 1, 40, 48, dtype=torch.bool)
    edge[:, :, 20:30, 20:30] = True
    near, far = x.clone(), x.clone()
    near[:, :, 15, 24], far[:, :, 14, 24] = 1, 1
    assert bool((ssim(near, x, peak=1.0, mask=edge) < 1).all()), "a window reaches 5 pixels beyond the mask"
    assert torch.allclose(ssim(far, x, peak=1.0, mask=edge), torch.ones(2, dtype=torch.float64)), "and not 6"


def test_masked_ms_ssim_window_by_window() -> None:
    y, x = couple(1, 1, 200, 224)
    y[:, :, :20] = 0
    mask = torch.zeros(1, 1, 200, 224, dtype=torch.bool)
    mask[:, :, 20:180, 24:170] = True
    mask[:, :, 100:104, 60:63] = False  # a hole
    taps = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
    weights = (taps[:, None] * taps).flatten() / taps.sum() ** 2
    expected, a, b, whole = 1.0, y, x, mask.double()
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 1):
        windows = [F.unfold(image, 11)[0] for image in (a, b)]
        mean = [weights @ window for window in windows]
        var = [weights @ window.square() - m**2 for window, m in zip(windows, mean, strict=True)]
        cov = weights @ (windows[0] * windows[1]) - mean[0] * mean[1]
        index = (2 * cov + 0.03**2) / (var[0] + var[1] + 0.03**2)
        if scale == 5:
            index = index * (2 * mean[0] * mean[1] + 0.01**2) / (mean[0] ** 2 + mean[1] ** 2 + 0.01**2)
        center = F.unfold(whole, 11)[0][60] == 1
        expected *= float(index[center].mean()) ** exponent
        a, b, whole = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2), -F.max_pool2d(-whole, 2)  # full where all four are
    found = float(ms_ssim(y, x, peak=1.0, mask=mask)[0])
    assert math.isclose(found, expected, rel_tol=1e-9)
    assert not math.isclose(found, float(ms_ssim(y, x, peak=1.0)[0]), rel_tol=1e-3), "the test has power"


def test_masks_that_do_not_fit_are_refused() -> None:
    x = torch.rand(3, 2, 176, 176)
    mask = torch.zeros(3, 1, 176, 176, dtype=torch.bool)
    mask[0] = True
    for measure in (*POINTWISE, partial(ssim, peak=1.0), partial(ms_ssim, peak=1.0)):
        with pytest.raises(ValueError, match="2 of 3 masks leave no pixel"):
            measure(x, x, mask=mask)
        for wrong in (mask[:1], mask[0], mask[..., :8], torch.ones(3, 3, 176, 176)):
            with pytest.raises(ValueError, match=r"give \(B, 1 or C, H, W\)"):
                measure(x, x, mask=wrong)
        for wrong in (mask.byte() * 255, mask * 0.5, mask * math.nan):
            with pytest.raises(ValueError, match="besides 0 and 1"):
                measure(x, x, mask=wrong)
    mask[1:, :, :5] = True
    assert psnr(x, x, peak=1.0, mask=mask).tolist() == [math.inf] * 3
    with pytest.raises(ValueError, match="2 of 3 masks"):
        ssim(x, x, peak=1.0, mask=mask)
    mask[1:, :, 81:111, 81:111] = True
    assert ssim(x, x, peak=1.0, mask=mask).tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match="2 of 3 masks"):  # no whole block of 16 x 16
        ms_ssim(x, x, peak=1.0, mask=mask)
    mask[1:, :, 80:96, 80:96] = True
    assert ms_ssim(x, x, peak=1.0, mask=mask).tolist() == pytest.approx([1, 1, 1])
    zero = torch.where(mask, 0.0, x)
    with pytest.raises(ValueError, match="3 of 3 references are all zero"):
        nrmse(x, zero, mask=mask)
