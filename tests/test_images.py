import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vlgen import images
from vlgen.images import Images, fit, info, read, read_with_facts, write
from vlgen.modality import MODALITIES
from vlgen.sheet import sheet

CANARY = "Zanzibar Quux"


def batch(name: str, n: int = 2, **more: object) -> Images:
    m = MODALITIES[name]
    x = torch.rand(n, 1, 24, 20, generator=torch.Generator().manual_seed(1))
    provenance = {"software": "vlgen 0", "model": "mini", "solver": "heun", "steps": 18, "report_sha256": "ab" * 32}
    return Images(m.decode(x * 2 - 1), m, tuple({**provenance, "seed": k, **more} for k in range(n)))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_levels_are_read_by_bit_depth_exactly(tmp_path: Path, ending: str, bits: int) -> None:
    levels = np.array([[0, 1, 2**bits - 1], [2 ** (bits - 1), 7, 200]], np.uint8 if bits == 8 else np.uint16)
    Image.fromarray(levels).save(tmp_path / f"x.{ending}")
    x = read(tmp_path / f"x.{ending}")
    assert x.shape == (1, 2, 3) and x.dtype == torch.float32
    assert torch.equal(x[0], torch.from_numpy((levels / (2**bits - 1)).astype(np.float32)))


def test_color_is_luminance_and_transparency_lies_on_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50, 255], [9, 9, 9, 255], [255, 255, 255, 51]]], np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    Image.fromarray(pixels[..., :3], "RGB").save(tmp_path / "c.png")
    Image.fromarray(pixels[..., :3], "RGB").quantize(8).save(tmp_path / "p.png")
    want = (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255
    for name, last in (("a", 0.2), ("c", 1.0), ("p", 1.0)):
        assert read(tmp_path / f"{name}.png")[0, 0].tolist() == pytest.approx([want, 9 / 255, last], abs=1e-6)


def test_jpeg_obeys_its_orientation(tmp_path: Path) -> None:
    grey = Image.fromarray(np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "x.jpg", exif=exif, quality=95)
    want = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.jpg")), np.float32) / 255
    assert torch.equal(read(tmp_path / "x.jpg")[0], torch.from_numpy(want)) and want.shape == (48, 32)


def test_tiff_white_is_zero_and_twelve_bits(tmp_path: Path) -> None:
    levels = np.array([[0, 65535], [100, 4000]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "x.tif") as image:
        assert image.tag_v2[262] == 0
    assert read(tmp_path / "x.tif")[0].numpy() == pytest.approx(1 - levels / 65535, abs=1e-7)
    # Two 12-bit pixels in three bytes: 0xFFF and 0x800.
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + struct.pack("<H", len(entries)) + table + bytes(4)
    (tmp_path / "y.tif").write_bytes(data)
    assert read(tmp_path / "y.tif").flatten().tolist() == pytest.approx([1, 0x800 / 0xFFF])


@pytest.mark.parametrize(
    ("array", "scale", "unit"),
    [
        (np.array([[-1000.0, 12.5]], np.float32), 1, None),
        (np.array([[[-1000, 3000]]], np.int16), 1, None),
        (np.array([[0, 255]], np.uint8), 255, ""),
        (np.array([[0, 65535]], np.uint16), 65535, ""),
    ],
)
def test_npy_keeps_its_values(tmp_path: Path, array: np.ndarray, scale: int, unit: str | None) -> None:
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "x.json").write_text('{"somebody": "else"}')
    x, facts = read_with_facts(tmp_path / "x.npy")
    assert x.shape == (1, 1, 2) and facts.get("unit") == unit
    assert x.flatten().tolist() == pytest.approx((array.astype(float) / scale).flatten().tolist())


def hostile(tmp_path: Path) -> dict[str, bytes]:
    good, whole = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(good, "PNG")
    np.save(whole, np.zeros((8, 8), np.float32))
    pickled, lying, several, floats = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([{CANARY: 1}], dtype=object), allow_pickle=True)
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f4", "fortran_order": False, "shape": (100_000, 100_000)})
    page = Image.fromarray(np.zeros((4, 4), np.uint8))
    page.save(several, "TIFF", save_all=True, append_images=[page])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats, "TIFF")
    nan = io.BytesIO()
    np.save(nan, np.full((4, 4), np.nan))
    return {
        "empty": b"",
        "text": f"Patient: {CANARY}".encode(),
        "elf": b"\x7fELF" + bytes(200),
        "truncated": good.getvalue()[:-200],
        "header": good.getvalue()[:20],
        "bomb": png(14_000, 14_000, bytes(14_001 * 14)),
        "large": png(7_000, 7_000),
        "lying": png(60_000, 1, b"\0"),
        "short": whole.getvalue()[:-4],
        "pickled": pickled.getvalue(),
        "promising": lying.getvalue(),
        "several": several.getvalue(),
        "floats": floats.getvalue(),
        "nan": nan.getvalue(),
        "jpeg": b"\xff\xd8\xff\xe0" + bytes(300),
    }


def test_hostile_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for name, data in hostile(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"^{name}: ") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value) and CANARY not in str(caught.value), name
        with pytest.raises(ValueError):
            info(tmp_path / name)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="no such file"):
            read(path)


# --- fitting -------------------------------------------------------------------------------------------------------


def test_fit_crops_or_pads_and_never_stretches() -> None:
    x = torch.zeros(1, 60, 100)
    x[:, 20:40, 40:60] = 1  # a square in the middle stays a square
    for how, side in (("crop", 20 / 60), ("letterbox", 20 / 100)):
        y = fit(x, 50, how)
        rows, columns = y[0].sum(1), y[0].sum(0)
        assert y.shape == (1, 50, 50)
        assert (rows > rows.max() / 2).sum() == (columns > columns.max() / 2).sum() == pytest.approx(side * 50, abs=1)
    assert torch.equal(fit(x[:, :, :60], 60), x[:, :, :60])


def test_fit_keeps_the_range_and_pads_with_the_lowest_value() -> None:
    x = torch.rand(1, 31, 77, generator=torch.Generator().manual_seed(0)) * 1500 - 1000
    for size in (16, 200):
        for how in ("crop", "letterbox"):
            y = fit(x, size, how)
            assert y.min() >= x.min() and y.max() <= x.max()
    assert fit(x, 77, "letterbox")[0, 0, 0] == x.min() and fit(x, 77, "letterbox", fill=-5)[0, 0, 0] == -5
    assert torch.equal(fit(x, 77, "letterbox")[:, 23:54], x)
    with pytest.raises(ValueError, match="crop or letterbox"):
        fit(x, 16, "stretch")


def test_fit_does_not_alias() -> None:
    checkers = (torch.arange(256)[:, None] + torch.arange(256)[None]).remainder(2).float()[None]
    assert (fit(checkers, 32) - 0.5).abs()[:, 2:-2, 2:-2].max() < 0.02


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODALITIES))
@pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("npy", "npy"), ("dicom", "dcm")])
def test_round_trip_and_provenance(tmp_path: Path, name: str, format: str, ending: str) -> None:
    given = batch(name)
    paths = write(given, tmp_path, format=format)
    assert [path.suffix for path in paths] == [f".{ending}"] * 2
    low, high = given.modality.window
    # Half a level of what is stored: 8 bits for relative PNG, integers for HU in DICOM, 16 bits for the rest.
    steps = 255 if format == "png" and not given.modality.unit else 65535
    half = 0.5 if format == "dicom" and name == "ct" else (high - low) / steps / 2
    for k, path in enumerate(paths):
        x, facts = read_with_facts(path)
        assert facts["unit"] == given.modality.unit
        assert (x - given[k]).abs().max() <= (0 if format == "npy" else half * 1.001 + 1e-6 * high)
        found = info(path)
        assert found["synthetic"] is True and found["window"] == [low, high] and found["size"] == [24, 20]
        assert {key: found[key] for key in given.provenance[k]} == dict(given.provenance[k])
        assert path.name.startswith(f"{name}_{k}_")
        again = write(Images(x[None], given.modality, given.provenance[k : k + 1]), tmp_path / "again", format=format)
        assert torch.equal(read(again[0]), x)  # from the second time on nothing changes


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    for format in images.ENDINGS:
        first = {p.name: p.read_bytes() for p in write(batch("ct"), tmp_path, format=format, grid=True)}
        assert first == {p.name: p.read_bytes() for p in write(batch("ct"), tmp_path, format=format, grid=True)}


def test_png_bears_the_marks_of_generated_media(tmp_path: Path) -> None:
    path, _, grid = write(batch("cxr"), tmp_path, grid=True)
    for marked in (path, grid):
        with Image.open(marked) as image:
            assert image.mode == "L"
            assert "digitalsourcetype/trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
    assert [each["seed"] for each in info(grid)["sheet"]] == [0, 1]
    with Image.open(write(batch("ct"), tmp_path)[0]) as image:
        assert image.mode == "I;16"


def test_reports_stay_out_unless_asked_for(tmp_path: Path) -> None:
    given = batch("cxr", report=f"Effusion, {CANARY}.", negative=CANARY)
    for format in images.ENDINGS:
        for path in write(given, tmp_path / "hash", format=format, grid=True):
            assert CANARY.encode() not in path.read_bytes() and "Zanzibar" not in path.name
            assert "report" not in info(path) and "negative" not in info(path)
        kept = write(given, tmp_path / "text", format=format, keep_report=True)
        assert info(kept[0])["report"] == f"Effusion, {CANARY}."
    assert not any(CANARY.encode() in file.read_bytes() for file in (tmp_path / "hash").iterdir())


def test_images_of_one_provenance_do_not_overwrite_each_other(tmp_path: Path) -> None:
    given = batch("cxr", 3, seed=7)
    paths = write(given, tmp_path)
    assert len(set(paths)) == 3 and not torch.equal(read(paths[0]), read(paths[1]))


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    old = write(batch("cxr", 1), tmp_path)[0]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, function, fail)
    for format in images.ENDINGS:
        with pytest.raises(ValueError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            write(batch("cxr", 1, steps=99), tmp_path, format=format)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before and old in before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot write into"):
            write(batch("cxr"), folder)
    with pytest.raises(ValueError, match="choose one of png, npy, dicom"):
        write(batch("cxr"), tmp_path, format="bmp")
    given = batch("cxr")
    given.pixels[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        write(given, tmp_path)


def test_info_of_files_from_elsewhere(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    for name in ("x.png", "x.npy"):
        with pytest.raises(ValueError, match="not written by vlgen"):
            info(tmp_path / name)
    (tmp_path / "x.json").write_text(json.dumps({"synthetic": "perhaps"}))
    with pytest.raises(ValueError, match="not written by vlgen"):
        info(tmp_path / "x.npy")
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError):
        info(tmp_path / "x.npy")


# --- showing -------------------------------------------------------------------------------------------------------


def test_images_are_shown_through_their_window() -> None:
    m = MODALITIES["ct"]
    given = Images(torch.tensor([-2000.0, -1000, -250, 500, 3000]).reshape(1, 1, 1, 5), m, ({},))
    assert np.asarray(given.pil()[0]).tolist() == [[0, 0, 128, 255, 255]]
    assert len(given) == 1 and next(iter(given)).shape == given[0].shape == (1, 1, 5)
    with pytest.raises(ValueError, match="one record per image"):
        Images(given.pixels, m, ())


def test_sheet() -> None:
    rows = [[torch.zeros(1, 32, 48), torch.ones(1, 32, 48)], [torch.full((1, 32, 48), 0.5)]]
    plain = np.asarray(sheet(rows))
    assert plain.shape == (4 + 2 * 36, 4 + 2 * 52)
    assert (plain[4:36, 4:52] == 0).all() and (plain[40:72, 4:52] == 128).all()
    labeled = np.asarray(sheet(rows, ["Small left pleural effusion, no pneumothorax.", "b"]))
    assert labeled.shape == (76, 120 + 108) and (labeled[4:36, :120] < 128).any()
    with pytest.raises(ValueError, match="one label"):
        sheet(rows, ["one"])
