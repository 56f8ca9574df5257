"""Pairs of files: figures that can be computed by hand, how files find each other, and what is left out and why."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlgen import dicom
from vlgen.evaluate.pairs import NAMED, pairs
from vlgen.evaluate.scores import Scores, Section
from vlgen.metrics.image import ms_ssim, ssim
from vlgen.modality import MODALITIES

CT = MODALITIES["ct"]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def png(path: Path, x: np.ndarray) -> Path:
    """Values in [0, 1] as a 16-bit picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((x * 65535).round().astype(np.uint16)).save(path)
    return path


def npy(path: Path, x: np.ndarray, **sidecar: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, x)
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps({"synthetic": True, **sidecar}))
    return path


def ct(path: Path, x: np.ndarray, patient: str = "") -> Path:
    import pydicom

    path.parent.mkdir(parents=True, exist_ok=True)
    dicom.write(torch.from_numpy(x)[None], CT, {}, path)
    if patient:
        ds = pydicom.dcmread(path)
        ds.PatientID = patient
        ds.save_as(path)
    return path


def values(section: Section, group: str = "all") -> dict[str, tuple[float, int]]:
    return {row.metric: (row.value, row.n) for row in section.rows if row.group == group}


def told(section: Section, words: str) -> str:
    """The one note that has these words."""
    (found,) = [note for note in section.notes if words in note]
    return found


def test_figures_of_a_known_error_in_hu(tmp_path: Path) -> None:
    x = np.full((24, 30), 100, np.float32)
    for k, error in enumerate((30.0, -60.0)):
        ct(tmp_path / "a" / f"s{k}.dcm", x)
        npy(tmp_path / "b" / f"s{k}.npy", x + np.float32(error))
    section, about = pairs(tmp_path / "a", tmp_path / "b")
    found = values(section)
    assert found["RMSE [HU]"] == pytest.approx((45, 2)) == found["MAE [HU]"]
    assert found["NRMSE"] == pytest.approx((0.45, 2))
    dB = [20 * math.log10(1500 / error) for error in (30, 60)]
    assert found["PSNR (dB)"] == (pytest.approx(sum(dB) / 2), 2), "the peak is the window of CT, 1500 HU"
    c1 = (0.01 * 1500) ** 2  # two constant images: only luminance differs
    expected = [(2 * 100 * y + c1) / (100**2 + y**2 + c1) for y in (130, 40)]
    assert found["SSIM"] == pytest.approx((sum(expected) / 2, 2))
    assert "MS-SSIM" not in found and "2 pairs without MS-SSIM: less than 176" in told(section, "MS-SSIM: ")
    assert "1500, the width of the window -1000 to 500" in told(section, "peak")
    assert "The worst pair by PSNR is s1, with 27.96 dB" in told(section, "worst")
    assert "2 files without a stated unit. Their values are taken as HU" in told(section, "without a stated")
    assert about["pairs"] == 2 and about["windows"] == {"HU": [-1000, 500]} and about["sizes"] == {"30 x 24": 2}
    assert about["formats"] == {"reference": {"DICOM": 2}, "reconstructed": {"NPY": 2}}
    narrow, _ = pairs(tmp_path / "a", tmp_path / "b", window=(0, 300))
    assert values(narrow)["PSNR (dB)"][0] == pytest.approx(sum(dB) / 2 - 20 * math.log10(5)), "another peak"
    assert values(narrow)["RMSE [HU]"] == found["RMSE [HU]"]
    json.dumps(Scores(about, (section,)).json(), allow_nan=False)


def test_pictures_equal_the_reference_libraries(tmp_path: Path) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a reference, not a dependency")
    x, y = noise(40, 50), np.clip(noise(40, 50) + 0.2 * noise(40, 50, seed=1), 0, 1)
    section, _ = pairs(png(tmp_path / "x.png", x), png(tmp_path / "other.png", y))
    found, exact = values(section), {"rel": 1e-4}  # 16 bits a pixel
    assert found["PSNR (dB)"][0] == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=1), **exact)
    assert found["NRMSE"][0] == pytest.approx(metrics.normalized_root_mse(x, y), **exact)
    assert found["RMSE [relative]"][0] == pytest.approx(math.sqrt(metrics.mean_squared_error(x, y)), **exact)
    theirs = metrics.structural_similarity(
        x.astype(float), y.astype(float), data_range=1, gaussian_weights=True, use_sample_covariance=False
    )
    assert found["SSIM"][0] == pytest.approx(theirs, **exact)
    assert all(row.n == 1 and row.interval is None for row in section.rows), "one pair has no interval"


def test_values_outside_the_window_count_as_they_are(tmp_path: Path) -> None:
    x = np.zeros((12, 12), np.float32)
    x[:3] = 1500
    y = x.copy()
    y[0] += 200  # metal, far above the window of CT
    section, _ = pairs(ct(tmp_path / "x.dcm", x), npy(tmp_path / "y.npy", y))
    assert values(section)["MAE [HU]"][0] == pytest.approx(200 / 12), "clipping to the window would make it 0"
    assert "Nothing is clipped: 25.00% of the references' values" in told(section, "clipped")


def test_files_find_each_other_by_relative_name_without_ending(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    x = noise(16, 16)
    for name in ("p1/1.png", "p2/1.png", "only.png", "twice.png", "v1.2.png", "broken.png"):
        png(a / name, x)
    for name in ("p1/1", "p2/1", "twice", "v1.2"):
        npy(b / f"{name}.npy", x + np.float32(0.1))
    png(b / "twice.png", x)
    png(b / "extra.png", x)
    (b / "broken.png").write_bytes(b"not a picture")
    png(b / "p1" / ".1.png", x)
    (a / "metadata.csv").write_text("file_name,text\nonly.png,PA chest radiograph.\n")
    section, about = pairs(a, b)
    assert values(section)["MAE [relative]"] == pytest.approx((0.1, 3), rel=1e-3)
    reasons = dict(map(tuple, about["refused"]))
    assert set(reasons) == {"only", "extra", "twice", "broken"}, "and 1, v1.2 and the hidden file are none of them"
    assert reasons["only"] == "no reconstruction" and reasons["extra"] == "no reference"
    assert reasons["twice"] == "several files of that name, twice.npy, twice.png"
    assert "reconstruction unreadable" in reasons["broken"] and "broken" not in reasons["broken"]
    assert told(section, "no reference") == "Left out, no reference: extra."
    for k in range(NAMED + 3):
        png(a / f"more{k}.png", x)
    section, about = pairs(a, b)
    assert " and 4 more." in told(section, "no reconstruction") and len(about["refused"]) == NAMED + 7


def test_what_does_not_fit_is_left_out_with_its_reason(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    x = noise(16, 16)
    png(a / "good.png", x), png(b / "good.png", 0.9 * x)
    png(a / "size.png", x), png(b / "size.png", noise(16, 15))
    ct(a / "unit.dcm", x), png(b / "unit.png", x)
    npy(a / "unknown.npy", x), npy(b / "unknown.npy", x)
    png(a / "scale.png", x), npy(b / "scale.npy", 2 * x - 1)
    ct(a / "hu.dcm", 1000 * x), npy(b / "hu.npy", x)
    npy(a / "last.npy", noise(16, 16, 3)), npy(b / "last.npy", noise(16, 16, 3))
    npy(a / "nan.npy", np.full((16, 16), np.nan)), png(b / "nan.png", x)
    section, about = pairs(a, b)
    assert values(section)["SSIM"][1] == 1
    reasons = dict(map(tuple, about["refused"]))
    for name, words in {
        "size": "the reference is 16 x 16, the reconstruction 15 x 16, and nothing is resized",
        "unit": "the reference is in HU, the reconstruction in relative units",
        "unknown": "neither file says its unit",
        "scale": "does not look like relative values",
        "hu": "does not look like HU values",
        "last": "channels last",
        "nan": "reference unreadable, values must be finite",
    }.items():
        assert words in reasons.pop(name)
        assert told(section, words)
    assert not reasons


def test_units_by_modality_and_window(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    x = 2 * noise(16, 16) - 1
    npy(a / "x.npy", x), npy(b / "x.npy", x + np.float32(0.2))
    section, _ = pairs(a, b, window=(-1, 1))
    assert values(section)["PSNR (dB)"][0] == pytest.approx(20), "2 / 0.2"
    assert values(section)["RMSE [unstated]"][0] == pytest.approx(0.2, rel=1e-6)
    assert "Nothing says the unit" in told(section, "without a stated")
    with pytest.raises(ValueError, match=r"x because: .* does not look like HU"):
        pairs(a, b, modality="ct")
    npy(a / "x.npy", 1000 * x), npy(b / "x.npy", 1000 * x + 15)
    section, _ = pairs(a, b, modality="ct")
    assert values(section)["PSNR (dB)"][0] == pytest.approx(40, rel=1e-6)
    png(a / "p.png", noise(16, 16)), png(b / "p.png", 0.5 * noise(16, 16))
    section, about = pairs(a, b, modality="ct")
    assert about["refused"] == [["p", "its values are in relative units, those of ct in HU"]]
    with pytest.raises(ValueError, match="one window cannot serve pairs in relative and unstated units"):
        pairs(a, b, window=(0, 1))
    npy(a / "x.npy", 1000 * x, unit="HU"), npy(b / "x.npy", 1000 * x + 15, unit="HU")
    section, about = pairs(a, b)
    assert values(section, "HU")["RMSE [HU]"] == (pytest.approx(15, rel=1e-6), 1)
    assert values(section, "relative")["RMSE [relative]"][1] == 1 and not values(section)
    assert about["windows"] == {"HU": [-1000, 500], "relative": [0, 1]} and len(section.pictures) == 2


def test_masks_hide_what_lies_outside(tmp_path: Path) -> None:
    a, b, m = tmp_path / "a", tmp_path / "b", tmp_path / "m"
    x = noise(40, 40)
    y = x + np.float32(0.1)
    inside = np.zeros((40, 40), np.uint8)
    inside[10:30, 12:32] = 3
    wild = np.where(inside > 0, y, 0.6 - y / 2)
    for k, image in enumerate((y, wild)):
        png(a / f"{k}.png", x), npy(b / f"{k}.npy", image)
        (m / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(inside).save(m / f"{k}.png")
    free, _ = pairs(a / "0.png", b / "0.npy", masks=m / "0.png")
    hidden, about = pairs(a / "1.png", b / "1.npy", masks=m / "1.png")
    for metric in ("PSNR (dB)", "NRMSE", "RMSE [relative]", "MAE [relative]"):
        assert values(free)[metric] == values(hidden)[metric], "exactly: the outside is not seen"
    assert values(free)["SSIM"] > values(hidden)["SSIM"], "windows reach over the edge"
    assert values(hidden)["RMSE [relative]"][0] == pytest.approx(0.1, rel=1e-3)
    assert values(pairs(a / "1.png", b / "1.npy")[0])["RMSE [relative]"][0] > 0.12, "the test has power"
    assert about["masked"] and "masked pixels" in told(hidden, "masked pixels")
    # what cannot be masked is left out, never measured whole
    for name in ("none", "empty", "small", "lossy"):
        png(a / f"{name}.png", x), png(b / f"{name}.png", 0.5 * x)
    Image.fromarray(0 * inside).save(m / "empty.png")
    Image.fromarray(inside[:20]).save(m / "small.png")
    Image.fromarray(inside * 80).save(m / "lossy.jpg")
    section, about = pairs(a, b, masks=m)
    assert values(section)["MAE [relative]"] == (pytest.approx(0.1, rel=1e-3), 2)
    reasons = dict(map(tuple, about["refused"]))
    assert reasons["none"] == "no mask" and reasons["empty"] == "the mask is empty"
    assert "the mask is 40 x 20" in reasons["small"] and "JPEG" in reasons["lossy"] and len(reasons) == 4


def test_volumes_are_measured_slice_by_slice(tmp_path: Path) -> None:
    x = 1000 * noise(4, 16, 16)
    error = np.array([0, 10, 20, 40], np.float32)[:, None, None]
    files = npy(tmp_path / "x.npy", x, unit="HU"), npy(tmp_path / "y.npy", x + error, unit="HU")
    section, about = pairs(*files)
    found = values(section)
    assert found["RMSE [HU]"] == (pytest.approx(17.5, rel=1e-5), 1), "one pair, the mean over its slices"
    dB = [20 * math.log10(1500 / e) for e in (10, 20, 40)]
    assert found["PSNR (dB)"][0] == pytest.approx(sum(dB) / 3, rel=1e-5), "without the slice that is identical"
    assert about["slices"] == 4 and "1 identical slice of other pairs" in told(section, "identical")
    assert "1 pair of volumes, measured slice by slice, 4 in all" in told(section, "volumes")
    assert "x.npy, slice 4, with 31.48 dB" in told(section, "worst")
    inside = np.zeros((4, 16, 16), np.uint8)
    inside[2, :4, :4] = 1
    section, about = pairs(*files, masks=npy(tmp_path / "m.npy", inside))
    assert values(section)["RMSE [HU]"][0] == pytest.approx(20, rel=1e-5) and about["slices"] == 1
    assert "3 more have nothing in their mask" in told(section, "volumes")
    assert "SSIM" not in values(section) and "mask too small" in told(section, "1 pair without SSIM")


def test_ms_ssim_where_five_scales_fit(tmp_path: Path) -> None:
    x, y = noise(180, 176), noise(180, 176, seed=1)
    png(tmp_path / "a" / "large.png", x), png(tmp_path / "b" / "large.png", (x + y) / 2)
    png(tmp_path / "a" / "little.png", x[:20, :20]), png(tmp_path / "b" / "little.png", y[:20, :20])
    png(tmp_path / "a" / "tiny.png", x[:9, :9]), png(tmp_path / "b" / "tiny.png", y[:9, :9])
    section, _ = pairs(tmp_path / "a", tmp_path / "b")
    found = values(section)
    images = [torch.from_numpy(image)[None, None] for image in ((x + y) / 2, x)]
    assert found["MS-SSIM"] == (pytest.approx(float(ms_ssim(*images, peak=1.0)), rel=1e-3), 1)
    assert found["SSIM"][1] == 2 and found["PSNR (dB)"][1] == 3
    assert "1 pair without SSIM" in told(section, "without SSIM") and "2 pairs" in told(section, "without MS-SSIM")
    large, _ = pairs(tmp_path / "a" / "large.png", tmp_path / "b" / "large.png")
    assert values(large)["SSIM"][0] == pytest.approx(float(ssim(*images, peak=1.0)), rel=1e-3)


def test_identical_pairs_are_counted_and_never_infinite(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for k in range(3):
        png(a / f"{k}.png", noise(16, 16, seed=k)), png(b / f"{k}.png", noise(16, 16, seed=min(k, 1)))
    png(a / "zero.png", np.zeros((16, 16))), png(b / "zero.png", np.full((16, 16), 0.5))
    section, _ = pairs(a, b)
    found = values(section)
    assert found["PSNR (dB)"][1] == 2 and found["RMSE [relative]"][1] == 4 and found["NRMSE"][1] == 3
    assert all(math.isfinite(row.value) for row in section.rows)
    assert "2 identical pairs, whose infinite PSNR" in told(section, "identical")
    assert "1 pair without NRMSE" in told(section, "NRMSE")
    section, _ = pairs(a, a)
    found = values(section)
    assert "PSNR (dB)" not in found and found["SSIM"] == (1, 4) and found["MAE [relative]"] == (0, 4)
    assert "4 identical pairs" in told(section, "identical") and not section.pictures


def test_the_worst_pairs_are_shown(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    x = np.full((32, 64), 0.5)
    for k in range(5):
        y = x.copy()
        y[:, 32:] += 0.05 * (k + 1)
        png(a / f"case{k}.png", x), png(b / f"case{k}.png", y)
    section, _ = pairs(a, b)
    ((caption, picture),) = section.pictures
    assert "worst 3 pairs" in caption and "white +0.25 (relative)" in caption
    grey = np.asarray(picture)
    assert grey.shape[0] > 3 * 192 and grey.shape[1] > 3 * 192
    # images of 192 pixels a side, four apart, after a column of labels; the row through the middle of the worst pair
    x, y, error = ([int(grey[100, start + at]) for at in (40, 150)] for start in (196, 2 * 196, 3 * 196))
    assert x == [128, 128] and y == [128, round(0.75 * 255)], "the worst pair first"
    assert error == [128, 255], "no error is middle grey, the largest is white"
    assert "case4" in told(section, "worst")


def test_intervals_are_over_pairs_and_over_patients_where_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = 100 * noise(12, 12)
    error = [float(e) for e in rng.uniform(10, 50, 4)]
    for k in range(12):
        for folder, patient in (("known", f"p{k // 3}"), ("alone", f"q{k}"), ("one", "r")):
            ct(tmp_path / folder / "a" / f"{k}.dcm", x, patient)
            npy(tmp_path / folder / "b" / f"{k}.npy", x + np.float32(error[k // 3]))
    known, _ = pairs(tmp_path / "known" / "a", tmp_path / "known" / "b")
    alone, _ = pairs(tmp_path / "alone" / "a", tmp_path / "alone" / "b")
    spans = []
    for section in (known, alone):
        (row,) = [row for row in section.rows if row.metric == "RMSE [HU]"]
        assert row.n == 12 and row.interval is not None
        assert row.interval[0] < row.value < row.interval[1]
        spans.append(row.interval[1] - row.interval[0])
    # three equal pairs a patient: a third of the independent draws, and so sqrt(3) times the width
    assert 1.4 < spans[0] / spans[1] < 2.1
    assert told(known, "The intervals draw 4 patients, not the 12 pairs")
    assert not [note for note in alone.notes if "patients" in note]
    one, _ = pairs(tmp_path / "one" / "a", tmp_path / "one" / "b")
    assert told(one, "one patient: there is no interval") and {row.interval for row in one.rows} == {None}
    again, _ = pairs(tmp_path / "known" / "a", tmp_path / "known" / "b")
    other, _ = pairs(tmp_path / "alone" / "a", tmp_path / "alone" / "b", seed=1)
    assert again.rows == known.rows and alone.rows != other.rows
    assert [row.value for row in other.rows] == [row.value for row in alone.rows], "the seed moves intervals only"
    assert "p0" not in repr(known) + str(known.notes)


def test_what_cannot_be_measured_at_all(tmp_path: Path) -> None:
    x = png(tmp_path / "a" / "x.png", noise(16, 16))
    y = png(tmp_path / "b" / "y.png", noise(16, 16))
    with pytest.raises(ValueError, match=r"can be measured, x because: no reconstruction"):
        pairs(tmp_path / "a", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no image"):
        pairs(tmp_path / "empty", tmp_path / "empty")
    with pytest.raises(ValueError, match="does not exist: give two folders"):
        pairs(tmp_path / "nowhere", tmp_path / "b")
    with pytest.raises(ValueError, match="folders only, or files only"):
        pairs(tmp_path / "a", y)
    with pytest.raises(ValueError, match="folders only, or files only"):
        pairs(x, y, masks=tmp_path / "a")
    with pytest.raises(ValueError, match="window is 5 to 5: give its lower end"):
        pairs(x, y, window=(5, 5))
    with pytest.raises(ValueError, match="unknown modality"):
        pairs(x, y, modality="oct")


def test_progress_is_told(tmp_path: Path) -> None:
    for k in range(2):
        png(tmp_path / "a" / f"{k}.png", noise(12, 12)), png(tmp_path / "b" / f"{k}.png", noise(12, 12, seed=1))
    heard: list[tuple[str, int, int]] = []
    pairs(tmp_path / "a", tmp_path / "b", progress=lambda what, done, total: heard.append((what, done, total)))
    assert heard == [("measuring pairs", done, 2) for done in range(3)]
