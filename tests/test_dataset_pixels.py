"""What a backbone is shown: the right window, square pixels, every depth, and a reason wherever it would be wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_rescale
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless
from test_dicom import item, saved, source
from test_images import png

from vlgen import dicom, images
from vlgen.dataset import Dataset, Row, load, windowed
from vlgen.dataset.loading import constant
from vlgen.modality import modality

FOUND = [up / "shared" / "data" for up in Path(__file__).resolve().parents[1:3] if (up / "shared" / "data").is_dir()]
CXR, CT, US = modality("cxr"), modality("ct"), modality("us")


def row(path: Path, index: int | None = None) -> Row:
    return Row(path, "t", "", "s", {}, 5, index)


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    array = np.zeros((16, 16), np.uint8)
    array[4:12, 4:12] = 200
    saved(source(array, PixelSpacing=[2.0, 1.0]), tmp_path / "a.dcm")
    saved(source(array, PixelSpacing=[1.0, 1.0]), tmp_path / "b.dcm")
    tall, square = (load(row(tmp_path / f"{name}.dcm"), CXR, 32, fit="letterbox")[0] > 0 for name in "ab")
    sides = [[int(x.any(k).sum()) for k in (1, 0)] for x in (tall, square)]
    assert sides == [[16, 8], [16, 16]]


def test_windows_of_ct(tmp_path: Path) -> None:
    assert windowed(CT, "") == CT and windowed(CT, "lung").window == (-1350, 150)
    assert windowed(CT, "-160, 240").window == windowed(CT, "mediastinum").window
    np.save(tmp_path / "x.npy", np.array([[-2000, -160], [40, 240]], np.int16))
    (tmp_path / "metadata.csv").write_text("file_name,text\nx.npy,Chest CT.\n")
    row = Dataset(tmp_path).rows[0]
    assert load(row, windowed(CT, "mediastinum"), 2).flatten().tolist() == [-1, -1, 0, 1]
    for kind, text, said in (
        (CT, "lungs", "LOW,HIGH in HU, or one of lung"),
        (CT, "3,1", "the lower end first"),
        (CT, "nan,1", "the lower end first"),
        (CXR, "lung", "have no unit"),
        (modality("pet"), "lung", "LOW,HIGH in SUV"),
    ):
        with pytest.raises(ValueError, match=said):
            windowed(kind, text)


def test_crop_and_letterbox(tmp_path: Path) -> None:
    x = np.zeros((8, 24), np.uint8)
    x[:, :4], x[:, 12:] = 255, 128
    Image.fromarray(x).save(tmp_path / "wide.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nwide.png,Normal.\n")
    row = Dataset(tmp_path).rows[0]
    crop, whole = load(row, CXR, 8), load(row, CXR, 24, fit="letterbox")
    # float32 of x / 255, doubled: an ulp or two
    assert torch.allclose(crop[0, 4], torch.tensor(x[4, 8:16] / 255 * 2 - 1).float(), atol=3e-7)
    assert torch.allclose(whole[0, 12], torch.tensor(x[4] / 255 * 2 - 1).float(), atol=1e-6)
    assert bool((whole[0, :8] == -1).all()) and bool((whole[0, 16:] == -1).all())


@pytest.mark.parametrize(
    ("said", "aspect"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, 2.0),
        ({"ImagerPixelSpacing": [0.3, 0.1]}, 3.0),
        ({"NominalScannedPixelSpacing": [0.1, 0.2]}, 0.5),
        ({"PixelAspectRatio": [4, 3]}, 4 / 3),
        ({"PixelSpacing": [0.0, 0.0], "PixelAspectRatio": [2, 1]}, 2.0),
        ({"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [2, 1]}, 1.0),
        ({"PixelSpacing": [0.2, 0.201]}, 0.2 / 0.201),
        ({"PixelSpacing": None}, None),
        ({"shared": [1.0, 0.8]}, 1.25),
        ({}, None),
    ],
)
def test_the_shape_of_pixels_is_as_the_file_says(tmp_path: Path, said: dict[str, object], aspect: float | None) -> None:
    """A disk is round on the screen, by the moments of what is seen, whatever the shape of its file's pixels."""
    ratio = aspect or 1
    y, x = np.mgrid[:96, :96] - 47.5
    disk = ((y * ratio) ** 2 + x**2 < 20**2).astype(np.uint8) * 255
    if "shared" in said:
        said = {"SharedFunctionalGroupsSequence": [item(PixelMeasuresSequence=[item(PixelSpacing=said["shared"])])]}
    path = saved(source(disk, **said), tmp_path / "x.dcm")
    known = dicom.facts(path).get("aspect")
    assert known is None if aspect is None else float(known) == pytest.approx(aspect, rel=1e-5)
    for fit in ("crop", "letterbox"):
        seen = (load(row(path), CXR, 64, fit=fit)[0] + 1) / 2
        at = torch.arange(64.0)
        down, across = seen.sum(1), seen.sum(0)
        spread = [float(((at - (at * m).sum() / m.sum()) ** 2 * m).sum() / m.sum()) ** 0.5 for m in (down, across)]
        # A letterbox ends at a whole pixel, so the shorter side is off by half a pixel at most; 1 % is the disk's edge.
        shorter = 64 / max(ratio, 1 / ratio)
        assert spread[0] / spread[1] == pytest.approx(1, abs=0.01 + 0.5 / shorter), fit
        assert seen.shape == (64, 64)


def test_what_cannot_be_made_square_is_refused(tmp_path: Path) -> None:
    array = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    saved(source(array, PixelSpacing=[50, 1]), tmp_path / "x.dcm")
    with pytest.raises(ValueError, match="line 5: pixels 50 times as tall as wide"):
        load(row(tmp_path / "x.dcm"), CXR, 8)
    x = (torch.arange(30)[:, None] / 5).sin() * (torch.arange(50)[None] / 7).cos()[None] / 2 + 0.5
    for how in ("crop", "letterbox"):
        film = x.repeat_interleave(10, 1).repeat_interleave(10, 2)
        assert torch.equal(images.fit(film, 160, how, aspect=1.009), images.fit(film, 160, how))
        assert not torch.equal(images.fit(film, 160, how, aspect=1.02), images.fit(film, 160, how))
        # Rows of twice the height are rows that stand there twice.
        twice = images.fit(x.repeat_interleave(2, 1), 64, how)
        assert (images.fit(x, 64, how, aspect=2.0) - twice).abs().max() < 0.1  # by what one row differs from the next
    for aspect in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="as tall as wide"):
            images.fit(x, 16, aspect=aspect)


def ramp(bits: int, *, signed: bool = False) -> np.ndarray:
    low = -(2 ** (bits - 1)) if signed else 0
    kind = np.int16 if signed else np.uint8 if bits <= 8 else np.uint16
    return np.linspace(low, low + 2**bits - 1, 64).round().reshape(8, 8).astype(kind)


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "dcm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_every_depth_fills_the_window(tmp_path: Path, bits: int, ending: str) -> None:
    """DICOM says how many of its 16 bits count. The others do not: 12 of 16 are refused, and never shown black."""
    path, want = tmp_path / f"x.{ending}", torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    if ending == "dcm":
        for signed in (False, True)[: 1 if bits == 8 else 2]:
            array = ramp(bits, signed=signed)
            low = float(array.min())
            saved(source(array, stored=bits, WindowCenter=low + 2 ** (bits - 1), WindowWidth=2**bits), path)
            assert torch.allclose(load(row(path), CXR, 8), want, atol=2**1 / 2**bits)
            inverse = source(array, stored=bits, WindowCenter=low + 2 ** (bits - 1), WindowWidth=2**bits)
            inverse.PhotometricInterpretation = "MONOCHROME1"
            assert torch.allclose(load(row(saved(inverse, path)), CXR, 8), -want, atol=2**1 / 2**bits)
        return
    array = ramp(bits)
    if ending == "npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    if bits in (10, 12):
        with pytest.raises(ValueError, match="line 5: its 16 bits hold 12 or fewer"):
            load(row(path), CXR, 8)
    else:
        scale = 0.25 if bits == 14 else 1  # two bits darker: what it is cannot be known
        assert torch.allclose(load(row(path), CXR, 8), (want + 1) * scale - 1, atol=2**1 / 2**bits)


def test_arrays_in_another_unit_than_the_modality_s_are_refused(tmp_path: Path) -> None:
    """Values of 0 to 255 as floats would all be white, HU that somebody scaled to 0 to 1 all one gray."""
    x = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    for array, said in (
        (x * 255, "values from .* to 25.*, where relative ones lie in 0 to 1"),
        ((x * 4095).astype(np.int16), "where relative ones lie in 0 to 1"),
        (x * 2 - 1, "where relative ones lie in 0 to 1"),
        (np.where(x > 0.5, np.nan, x), "values must be finite"),
        (np.full_like(x, np.inf), "values must be finite"),
        (x[None].repeat(3, 0), "3 channels or frames"),
        ((x * 255).astype(np.uint8)[..., None].repeat(3, -1), "16 channels or frames"),
        (x.astype(np.complex64), "of real numbers"),
    ):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ValueError, match=f"^line 5: .*{said}") as caught:
            load(row(tmp_path / "x.npy"), CXR, 8)
        assert "x.npy" not in str(caught.value)
    for array in (x, x.astype(np.float16), x.astype(np.float64), x > 0.5):
        np.save(tmp_path / "x.npy", array)
        assert not constant(load(row(tmp_path / "x.npy"), CXR, 8))
    np.save(tmp_path / "x.npy", x)
    assert constant(load(row(tmp_path / "x.npy"), CT, 8)) and not constant(load(row(tmp_path / "x.npy"), CXR, 8))
    np.save(tmp_path / "x.npy", (x * 255).astype(np.uint8))
    with pytest.raises(ValueError, match="the file's values are in relative units, those of ct must be in HU"):
        load(row(tmp_path / "x.npy"), CT, 8)


def test_color_ultrasound_of_many_frames_is_luminance_frame_by_frame(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    ds = source(frames[0], modality="US", NumberOfFrames=3)
    ds.PixelData = frames.tobytes()
    saved(ds, tmp_path / "x.dcm")
    (tmp_path / "metadata.csv").write_text("file_name,text\nx.dcm,Breast ultrasound.\n")
    data = Dataset(tmp_path)
    assert [one.index for one in data] == [0, 1, 2]
    want = torch.from_numpy(frames @ np.array([0.299, 0.587, 0.114]) / 255 * 2 - 1).float()
    for k, one in enumerate(data):
        assert torch.allclose(load(one, US, 8)[0], want[k], atol=1e-6)


def test_one_frame_is_what_it_is_among_all_in_every_real_file() -> None:
    """All files that pydicom brings: palettes, YBR, RLE, JPEG, big endian, enhanced; none breaks in another way."""
    read = several = 0
    for path in map(str, (Path(pydicom.data.data_manager.DATA_ROOT) / "test_files").glob("*.dcm")):
        try:
            whole, facts = dicom.read(path)
        except ValueError as reason:
            assert str(reason).startswith(Path(path).name) and "\n" not in str(reason)
            with pytest.raises(ValueError):
                dicom.read(path, frame=0)
            continue
        assert bool(torch.isfinite(whole).all()) and (facts["unit"] or bool((whole >= 0).all() and (whole <= 1).all()))
        for k in {0, len(whole) - 1}:
            one, again = dicom.read(path, frame=k)
            assert torch.equal(one, whole[k : k + 1]) and again == facts, path
        with pytest.raises(ValueError, match="no frame of that number"):
            dicom.read(path, frame=len(whole))
        read, several = read + 1, several + (len(whole) > 1)
    if not read:
        pytest.skip("pydicom was installed without its test files")
    assert read > 20 and several > 3


def test_compression_is_undone_or_named(tmp_path: Path) -> None:
    array = np.kron(ramp(12), np.ones((8, 8), np.uint16))
    plain = source(array, stored=12, WindowCenter=2048, WindowWidth=4096)
    want = load(row(saved(plain, tmp_path / "plain.dcm")), CXR, 8)
    for syntax in (RLELossless, JPEG2000Lossless):
        ds = source(array, stored=12, WindowCenter=2048, WindowWidth=4096)
        try:
            ds.compress(syntax)
        except RuntimeError:
            continue  # no encoder for it here
        assert torch.equal(load(row(saved(ds, tmp_path / "x.dcm")), CXR, 8), want)
        ds.PixelData = ds.PixelData[:-20]
        with pytest.raises(ValueError, match="line 5: "):
            load(row(saved(ds, tmp_path / "x.dcm")), CXR, 8)
    for syntax, said in ((JPEGLosslessSV1, "as JPEG Lossless"), ("1.2.3.4.5", "in a way that is not known")):
        ds = source(array, stored=12)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([b"\xff\xd8\xff\xc3" + bytes(60)])
        ds["PixelData"].is_undefined_length, ds.preamble = True, bytes(128)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds.save_as(tmp_path / "x.dcm", enforce_file_format=False, implicit_vr=False, little_endian=True)
        for index in (None, 0):
            with pytest.raises(ValueError, match=f"line 5: compressed {said}.*, which no decoder here can read"):
                load(row(tmp_path / "x.dcm", index), CXR, 8)


def test_pictures_of_a_hundred_megapixels_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(10_000, 10_000))
    with pytest.raises(ValueError, match=r"^line 5: more than 40 megapixels|^line 5: not a readable image"):
        load(row(tmp_path / "x.png"), CXR, 8)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (10_000, 10_000)).flush()
    with pytest.raises(ValueError, match=r"^line 5: more than 40 megapixels"):
        load(row(tmp_path / "x.npy"), CXR, 8)
    array = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"^line 5: more than 40 megapixels"):
        load(row(saved(source(array, Rows=10_000, Columns=10_000), tmp_path / "x.dcm"), 0), CXR, 8)


def test_what_vanishes_after_it_was_listed_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^line 5: no such file$"):
        load(row(tmp_path / "gone.png"), CXR, 8)
    assert constant(torch.full((1, 4, 4), float("nan"))) and constant(torch.zeros(1, 4, 4))
    assert not constant(torch.tensor([[[0.0, 2 / 255]]]))


@pytest.mark.skipif(not FOUND, reason="the open data sets are not here")
@pytest.mark.parametrize("window", ["lung", "mediastinum", "bone", "-200,300"])
def test_real_ct_is_in_hounsfield_units_and_in_the_window_that_was_asked_for(tmp_path: Path, window: str) -> None:
    """By the SOP instance of each file, out of a tree; the oracle is pydicom's own rescaling, cut to the window."""
    folder = FOUND[0] / "chest_ct" / "dicom"
    files = sorted(folder.iterdir())[::26]
    uids = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
    table = "SOP Instance UID\treport\n" + "".join(f"{uid}\tChest CT.\n" for uid in uids)
    (tmp_path / "t.tsv").write_text(table)
    data = Dataset(folder, table=tmp_path / "t.tsv")
    assert [one.file for one in data] == files and data.unnamed == 78 - 5 - len(files)
    assert data.refused == ((0, "a copy of another DICOM file (5 in the folder)"),)  # the set has five slices twice
    kind = windowed(CT, window)
    low, high = kind.window
    for one in data:
        ds = pydicom.dcmread(one.file)
        hu = apply_rescale(ds.pixel_array, ds).astype(np.float32)
        want = images.fit(torch.from_numpy(hu)[None], 64)
        want = ((want - low) / (high - low)).clamp(0, 1) * 2 - 1
        assert torch.allclose(load(one, kind, 64), want, atol=1e-5) and not constant(want)
        assert not any(uid in str(one.facts) + one.patient for uid in uids)
