import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from vlgen import dicom
from vlgen.modality import MODALITIES

CANARY = "Zanzibar^Quux"


def source(array: np.ndarray, *, modality: str = "DX", stored: int | None = None, **more: object) -> Dataset:
    """A DICOM object of a patient called CANARY, with these stored values."""
    ds, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.file_meta, ds.SOPClassUID, ds.Modality = meta, CTImageStorage, modality
    ds.PatientName = ds.PatientID = ds.AccessionNumber = ds.StudyDescription = CANARY
    ds.PatientSex, ds.PatientAge, ds.StudyDate, ds.PatientBirthDate = "F", "061Y", "20010203", "19400506"
    ds.Rows, ds.Columns = array.shape[:2] if array.shape[-1] == 3 else array.shape[-2:]
    ds.SamplesPerPixel = 3 if array.shape[-1] == 3 else 1
    ds.PhotometricInterpretation = "RGB" if array.shape[-1] == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(array.dtype.kind == "i")
    ds.PixelData = array.tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    for key, value in more.items():
        setattr(ds, key, value)
    return ds


def saved(ds: Dataset, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(path, enforce_file_format=True)
    return path


def item(**more: object) -> Dataset:
    ds = Dataset()
    for key, value in more.items():
        setattr(ds, key, value)
    return ds


# --- values --------------------------------------------------------------------------------------------------------

GRID = list(
    itertools.product(
        ["MONOCHROME1", "MONOCHROME2"], [False, True], [8, 12, 16], [None, (2.0, -100.0)],
        [None, ("LINEAR", 40, 80), ("LINEAR_EXACT", 40, 80), ("SIGMOID", 40, 80)], ["DX", "CT"],
    )
)  # fmt: skip


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_values_over_all_combinations(tmp_path: Path, signed: bool, bits: int) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    array = np.array([[low, high, 0, 1], [20, 39, 60, 100]], kind)
    count = 0
    for photometric, s, b, rescale, window, modality in GRID:
        if (s, b) != (signed, bits):
            continue
        count += 1
        ds = source(array, modality=modality, stored=bits, PhotometricInterpretation=photometric)
        y = array.astype(np.float64)
        if rescale:
            ds.RescaleSlope, ds.RescaleIntercept = rescale
            y = y * rescale[0] + rescale[1]
        if window:
            ds.VOILUTFunction, ds.WindowCenter, ds.WindowWidth = window[0], [window[1], 7], [window[2], 9]
        path = saved(ds, tmp_path / "x.dcm")
        if modality == "CT" and not rescale:
            with pytest.raises(ValueError, match="not HU"):
                dicom.read(path)
            continue
        if modality == "DX":
            if window and window[0] == "LINEAR":
                y = np.clip((y - 39.5) / 79 + 0.5, 0, 1)
            elif window and window[0] == "LINEAR_EXACT":
                y = np.clip((y - 40) / 80 + 0.5, 0, 1)
            elif window:
                y = 1 / (1 + np.exp(np.minimum(-4 * (y - 40) / 80, 700)))
            elif bits == 8 and not signed and not rescale:
                y = y / 255
            else:
                y = (y - y.min()) / (y.max() - y.min())
            y = 1 - y if photometric == "MONOCHROME1" else y
        x, facts = dicom.read(path)
        assert x.shape == (1, 2, 4) and x.dtype == torch.float32
        assert facts["unit"] == ("HU" if modality == "CT" else "")
        # float32 of a float64 result
        assert x[0].numpy() == pytest.approx(y.astype(np.float32), rel=1e-6, abs=1e-6), (photometric, rescale, window)
    assert count == 32


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    dirty = np.array([[0xF005, 0x0FFB], [0x0800, 0xA7FF]], np.uint16)
    common = {"modality": "CT", "stored": 12, "RescaleSlope": 1, "RescaleIntercept": 0}
    x, _ = dicom.read(saved(source(dirty, **common), tmp_path / "u.dcm"))
    assert x.flatten().tolist() == [5, 0xFFB, 0x800, 0x7FF]
    x, _ = dicom.read(saved(source(dirty.view(np.int16), **common), tmp_path / "s.dcm"))
    assert x.flatten().tolist() == [5, -5, -2048, 2047]


def test_lookup_tables(tmp_path: Path) -> None:
    array = np.array([[0, 10], [11, 300]], np.uint16)
    table = item(
        LUTDescriptor=[4, 9, 12], LUTData=np.array([100, 4095, 2000, 3000], "<u2").tobytes(), ModalityLUTType="US"
    )
    ds = source(array, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    assert dicom.read(saved(ds, tmp_path / "v.dcm"))[0].flatten().tolist() == pytest.approx(
        [100 / 4095, 1, 2000 / 4095, 3000 / 4095]
    )
    ds = source(array, ModalityLUTSequence=[table], WindowCenter=2000, WindowWidth=4000, VOILUTFunction="LINEAR_EXACT")
    assert dicom.read(saved(ds, tmp_path / "m.dcm"))[0].flatten().tolist() == pytest.approx([0.025, 1, 0.5, 0.75])
    assert dicom.read(saved(source(array * 0), tmp_path / "c.dcm"))[0].sum() == 0  # one value: darkest


def test_frames_and_functional_groups(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
    groups = [
        item(PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=-k, RescaleType="HU")])
        for k in range(3)
    ]
    ds = source(array, modality="CT", NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
    x, _ = dicom.read(saved(ds, tmp_path / "x.dcm"))
    assert torch.equal(x, torch.stack([torch.from_numpy(array[k] * (k + 1.0) - k) for k in range(3)]).float())
    for k in range(3):
        assert torch.equal(dicom.read(tmp_path / "x.dcm", frame=k)[0], x[k : k + 1])
    for k in (3, -1):
        with pytest.raises(ValueError, match="no frame of that number: they run from 0 to 2"):
            dicom.read(tmp_path / "x.dcm", frame=k)
    shared = item(FrameVOILUTSequence=[item(WindowCenter=6, WindowWidth=12, VOILUTFunction="LINEAR_EXACT")])
    ds = source(array, modality="MR", NumberOfFrames=3, SharedFunctionalGroupsSequence=[shared])
    assert dicom.read(saved(ds, tmp_path / "y.dcm"))[0].flatten().tolist() == pytest.approx([k / 12 for k in range(12)])


def test_color_and_compression(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50], [9, 9, 9]]], np.uint8)
    with pytest.raises(ValueError, match="color picture of a CT"):
        dicom.read(saved(source(pixels, modality="CT"), tmp_path / "rgb.dcm"))
    x, _ = dicom.read(saved(source(pixels, modality="US"), tmp_path / "rgb.dcm"))
    assert x.flatten().tolist() == pytest.approx([(0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255, 9 / 255])
    array = np.arange(64, dtype=np.int16).reshape(8, 8) - 1000
    ds = source(array, modality="CT", RescaleSlope=1, RescaleIntercept=-24)
    ds.compress(RLELossless)
    assert torch.equal(dicom.read(saved(ds, tmp_path / "rle.dcm"))[0][0], torch.from_numpy(array - 24).float())
    palette: dict[str, object] = {}
    for color, level in (("Red", 9), ("Green", 5), ("Blue", 1)):
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        palette[f"{color}PaletteColorLookupTableData"] = np.array([0, level * 6553], "<u2").tobytes()
    ds = source(np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **palette)
    want = (0.299 * 9 + 0.587 * 5 + 0.114) * 6553 / 65535
    assert dicom.read(saved(ds, tmp_path / "p.dcm"))[0].flatten().tolist() == pytest.approx([0, want])


# --- facts ---------------------------------------------------------------------------------------------------------


def test_facts_are_those_of_the_list_and_name_nobody(tmp_path: Path) -> None:
    array = np.zeros((2, 2), np.uint16)
    more = {"KVP": 120, "Manufacturer": "ACME", "ContrastBolusAgent": CANARY, "PixelSpacing": [0.5, 0.5],
            "InstitutionName": CANARY, "OtherPatientIDs": CANARY, "PatientComments": CANARY}  # fmt: skip
    path = saved(source(array, **more), tmp_path / "x.dcm")
    _, facts = dicom.read(path)
    assert facts == dicom.facts(path)
    assert set(facts) <= {*dicom.FACTS, "ContrastBolusAgent", "patient", "unit", "aspect"}
    assert facts["PatientSex"] == "F" and facts["ContrastBolusAgent"] == "yes" and float(facts["KVP"]) == 120
    assert not any(word in str(facts) for word in ("Quux", "Zanzibar", "2001", "1940"))
    other = saved(source(array, PatientID="other"), tmp_path / "y.dcm")
    assert dicom.facts(other)["patient"] != facts["patient"] != dicom.facts(path, salt="another")["patient"]
    assert len(facts["patient"]) == 16


# --- hostile files -------------------------------------------------------------------------------------------------


def hostile(folder: Path) -> dict[str, str]:
    """Files by name, and what is said of each."""
    array = np.arange(64, dtype=np.uint16).reshape(8, 8)

    def put(name: str, **more: object) -> Path:
        return saved(source(array, **more), folder / name)

    put("good")
    good = (folder / "good").read_bytes()
    (folder / "good").unlink()
    for name, data in (("empty", b""), ("preamble", good[:132]), ("meta", good[:200]), ("pixels", good[:-50]),
                       ("elf", b"\x7fELF" + bytes(400)), ("text", CANARY.encode() * 20)):  # fmt: skip
        (folder / name).write_bytes(data)
    put("rows", Rows=65535, Columns=65535)
    put("frames", NumberOfFrames=2**31 - 1)
    put("lying", Rows=9)
    put("bits", BitsStored=7, BitsAllocated=7)
    put("stored", BitsStored=17)
    put("samples", SamplesPerPixel=4)
    put("photometric", PhotometricInterpretation="MOONOCHROME")
    put("width", WindowCenter=1, WindowWidth=0)
    put("function", WindowCenter=1, WindowWidth=9, VOILUTFunction=CANARY.upper())
    put("slope", RescaleSlope="1e308", RescaleIntercept="0")
    put("large", RescaleSlope="1e39", RescaleIntercept="0", Modality="CT")
    put("electron", Modality="CT", RescaleSlope=1, RescaleIntercept=0, RescaleType="ED")
    for name, keyword in (("rowless", "Rows"), ("pixelless", "PixelData"), ("bitless", "BitsStored")):
        ds = source(array)
        delattr(ds, keyword)
        saved(ds, folder / name)
    ds = source(array)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    saved(ds, folder / "deflated")
    # An element that claims 4 GiB - 2 and swallows the pixels behind it.
    at = good.index(b"\xe0\x7f\x10\x00OW")
    (folder / "swallowed").write_bytes(good[:at] + b"\x09\x00\x01\x10OB\0\0\xfe\xff\xff\xff" + good[at:])
    # 3000 sequences of undefined length, one inside the other.
    nested = (b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 3000
    (folder / "nested").write_bytes(good[:at] + nested)
    return {
        "rows": "40 megapixels", "frames": "40 megapixels", "pixelless": "no pixel data", "deflated": "deflated",
        "slope": "not finite", "large": "not finite", "width": "window width", "photometric": "must be MONOCHROME1",
        "function": "must be LINEAR", "electron": "not HU", "nested": "RecursionError",
    }  # fmt: skip


def test_hostile_files_are_refused_in_one_sentence(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = hostile(tmp_path)
    recwarn.clear()
    caplog.clear()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 20
    for path in files:
        with pytest.raises(ValueError, match=f"^{path.name}: {'.*' + reasons.get(path.name, '')}") as caught:
            dicom.read(path)
        said = str(caught.value)
        assert "\n" not in said and "quux" not in said.lower() and caught.value.__cause__ is None, path.name
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, path.name
    assert not list(recwarn) and not caplog.records  # pydicom would quote the offending value


# --- writing -------------------------------------------------------------------------------------------------------


def test_hounsfield_units_come_back_within_half_a_step(tmp_path: Path) -> None:
    x = torch.linspace(-1500, 3000, 40 * 30).reshape(1, 40, 30)
    path = dicom.write(x, MODALITIES["ct"], {"seed": 1}, tmp_path / "x.dcm")
    y, facts = dicom.read(path)
    assert (x - y).abs().max() <= 0.5 and facts["unit"] == "HU" and facts["Modality"] == "CT"
    ds = pydicom.dcmread(path)
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, -1500, "HU")
    assert (ds.WindowCenter, ds.WindowWidth) == (-250, 1500)
    with pytest.raises(ValueError, match="16 bits hold"):
        dicom.write(x * 50, MODALITIES["ct"], {}, tmp_path / "x.dcm")
    for bad in (x[0], x * float("nan")):
        with pytest.raises(ValueError, match="finite values of shape"):
            dicom.write(bad, MODALITIES["ct"], {}, tmp_path / "x.dcm")


def test_suv_and_relative_values_come_back_within_half_a_step(tmp_path: Path) -> None:
    noise = torch.rand(1, 40, 30, generator=torch.Generator().manual_seed(0))
    for name, scale in (("pet", 15.0), ("pet", 87.3), ("cxr", 1.0), ("mri", 1.0), ("us", 1.0)):
        x = noise * scale
        y, facts = dicom.read(dicom.write(x, MODALITIES[name], {}, tmp_path / "x.dcm"))
        # Half a level of 16 bits, and the rounding of float32.
        assert (x - y).abs().max() <= max(scale, MODALITIES[name].window[1]) * (0.5 / 65535 + 1e-7)
        assert facts["unit"] == MODALITIES[name].unit


def test_files_are_marked_synthetic_and_name_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"synthetic": True, "software": "vlgen 0.1", "model": "mini", "seed": 3}
    path = dicom.write(torch.rand(1, 8, 10), MODALITIES["cxr"], record, tmp_path / "x.dcm")
    assert path.read_bytes()[:132] == bytes(128) + b"DICM"
    ds = pydicom.dcmread(path)
    assert ds[0x0008001C].value == "YES" and list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert ds.SOPClassUID == SecondaryCaptureImageStorage and ds.ConversionType == "SYN" and ds.Modality == "DX"
    assert ds.BurnedInAnnotation == "NO" and ds.InstanceNumber == 3
    tool = ds.ContributingEquipmentSequence[0]
    code = tool.PurposeOfReferenceCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, tool.Manufacturer) == ("109102", "DCM", "vlgen")
    assert tool.SoftwareVersions == "vlgen 0.1"
    for value in (ds.PatientName, ds.PatientID, ds.SeriesDescription):
        assert str(value).startswith("SYNTHETIC")
    uids = [ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.file_meta.ImplementationClassUID]
    assert all(uid.startswith("2.25.") and uid.is_valid for uid in uids) and len(set(uids)) == 4
    assert not any(element.VR in ("DA", "TM", "DT") and element.value for element in ds.iterall())
    assert json.loads(ds.DerivationDescription) == record == json.loads(dicom.provenance(path))
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    assert len(list(pydicom.dcmread(path).iterall())) > 40  # every value obeys its own representation


def test_uids_follow_from_the_command(tmp_path: Path) -> None:
    x, m = torch.rand(1, 8, 8), MODALITIES["cxr"]

    def uids(x: torch.Tensor, **record: object) -> list[str]:
        ds = pydicom.dcmread(dicom.write(x, m, record, tmp_path / "x.dcm"))
        return [ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID]

    first = uids(x, seed=1, steps=18)
    assert uids(x, seed=1, steps=18) == first
    assert uids(x, seed=2, steps=18)[:2] == first[:2] and uids(x, seed=2, steps=18)[2] != first[2]
    assert uids(1 - x, seed=1, steps=18)[2] != first[2] and uids(x, seed=1, steps=9)[0] != first[0]


@pytest.mark.parametrize("length", [10, 1000, 9000])
def test_provenance_of_any_length(tmp_path: Path, length: int) -> None:
    report = ('Überblähung \\ "left"\n' * length)[:length]
    path = dicom.write(torch.rand(1, 4, 4), MODALITIES["us"], {"report": "x" * length}, tmp_path / "x.dcm")
    assert json.loads(dicom.provenance(path)) == {"report": "x" * length, "synthetic": True}
    if length < 9000:
        path = dicom.write(torch.rand(1, 4, 4), MODALITIES["us"], {"report": report}, tmp_path / "x.dcm")
        assert json.loads(dicom.provenance(path))["report"] == report
    with pytest.raises(ValueError, match="leave the report out"):
        dicom.write(torch.rand(1, 4, 4), MODALITIES["us"], {"report": "x" * 11_000}, tmp_path / "y.dcm")
    assert not (tmp_path / "y.dcm").exists()


def test_files_from_elsewhere_have_no_provenance(tmp_path: Path) -> None:
    ds = source(np.zeros((2, 2), np.uint16), DerivationDescription='{"synthetic": true}')
    with pytest.raises(ValueError, match="not written by vlgen"):
        dicom.provenance(saved(ds, tmp_path / "x.dcm"))


def test_importing_the_file_floor_is_cheap() -> None:
    code = "import sys, vlgen.dataset; print([m for m in ('pydicom', 'PIL', 'numpy.testing') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydicom" not in done.stdout and "PIL" not in done.stdout
