"""DICOM in and out: values in their unit, facts from an allow-list, synthetic images marked as such."""

from __future__ import annotations

import hashlib
import io
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlgen.files import MAX_PIXELS, Refused, check_file, compact, refusing, store
from vlgen.modality import Modality

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

# What leaves a file besides its pixels. Names, identifiers and dates are absent on purpose.
FACTS = (
    "Modality", "PatientSex", "PatientAge", "ViewPosition", "BodyPartExamined", "SliceThickness", "PixelSpacing",
    "PhotometricInterpretation", "Laterality", "ImageLaterality", "KVP", "Manufacturer",
)  # fmt: skip
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")


def _open(path: Path, *, pixels: bool = True) -> Dataset:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    # The transfer syntax is read before the rest: a deflated megabyte may inflate to gigabytes.
    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) in DEFLATED:
        raise Refused(f"{path.name}: deflated DICOM is refused; save it uncompressed or as JPEG 2000")
    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _facts(ds: Dataset, salt: str) -> dict[str, str]:
    found = {}
    for name in FACTS:
        value = ds.get(name)
        if value not in (None, ""):
            found[name] = str(value)[:64]
    found["ContrastBolusAgent"] = "yes" if ds.get("ContrastBolusAgent") else "no"
    patient = str(ds.get("PatientID") or ds.get("PatientName") or "").strip()
    # The same patient in two files can be told, the patient cannot: enough for a patient-wise split.
    found["patient"] = hashlib.sha256(f"{salt}\x1f{patient}".encode()).hexdigest()[:16] if patient else ""
    kind = str(ds.get("RescaleType") or "")
    found["unit"] = "SUV" if kind == "SUV" else "HU" if ds.get("Modality") == "CT" or kind == "HU" else ""
    return found


def facts(path: str | Path, *, salt: str = "vlgen") -> dict[str, str]:
    """The allow-listed attributes of a DICOM file (FACTS), the unit of its values, and a salted hash as `patient`."""
    path = Path(path)
    check_file(path)
    with refusing(path, "DICOM"):
        return _facts(_open(path, pixels=False), salt)


def read(path: str | Path, *, salt: str = "vlgen") -> tuple[Tensor, dict[str, str]]:
    """Pixels (frames, H, W) float32 in their unit, and the allow-listed facts of a DICOM file.

    CT, and files that say HU or SUV, stop after the modality LUT or rescale: values are in that unit. All others go on
    through the VOI LUT or window and the MONOCHROME1 inversion to relative values, 0 darkest and 1 brightest;
    where no window is given, 8-bit pixels keep their full range and deeper ones their own minimum and
    maximum. Color becomes luminance. Raises ValueError for what is not a usable image.
    """
    path = Path(path)
    check_file(path)
    with refusing(path, "DICOM"):
        ds = _open(path)
        known = _facts(ds, salt)
        return _pixels(ds, path.name, known["unit"]), known


def _pixels(ds: Dataset, name: str, unit: str) -> Tensor:
    import numpy as np
    from pydicom.pixels import apply_color_lut

    if "PixelData" not in ds:
        raise Refused(f"{name}: no pixel data")
    frames, samples = int(ds.get("NumberOfFrames") or 1), int(ds.get("SamplesPerPixel") or 1)
    if int(ds.Rows) * int(ds.Columns) * frames > MAX_PIXELS:
        raise Refused(f"{name}: more than 40 megapixels")
    photometric = str(ds.PhotometricInterpretation)
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR") and not photometric.startswith("YBR"):
        raise Refused(f"{name}: photometric interpretation must be MONOCHROME1, MONOCHROME2, RGB, YBR or PALETTE COLOR")
    raw = ds.pixel_array
    if photometric == "PALETTE COLOR":
        raw, samples = apply_color_lut(raw, ds), 3
    if samples == 3 and unit:
        raise Refused(f"{name}: a color picture of a CT, so its values are not {unit}")
    if samples == 3:
        peak = np.iinfo(raw.dtype).max if photometric == "PALETTE COLOR" else 2 ** int(ds.BitsStored) - 1
        color = raw.reshape(frames, *raw.shape[-3:])[..., :3].astype(np.float64) / peak
        values = color @ np.array([0.299, 0.587, 0.114])
    else:
        spare = int(ds.BitsAllocated) - int(ds.BitsStored)
        if int(ds.BitsAllocated) > 1 and spare > 0:
            # Bits above the stored ones may hold anything; the sign sits in the highest stored bit.
            raw = (raw << spare) >> spare
        raw = raw.reshape(frames, *raw.shape[-2:])
        values = np.stack([_frame(ds, k, frame, name, unit) for k, frame in enumerate(raw)])
        if not unit and photometric == "MONOCHROME1":
            values = 1 - values
    result = torch.from_numpy(values.astype(np.float32))
    if not torch.isfinite(result).all():
        raise Refused(f"{name}: values are not finite after rescaling")
    return result


def _item(ds: Dataset, frame: int, group: str, keyword: str) -> Dataset:
    """Where `keyword` stands for this frame: in its functional group, in the shared one, or at the top."""
    own, shared = ds.get("PerFrameFunctionalGroupsSequence") or [], ds.get("SharedFunctionalGroupsSequence") or []
    for functional in (*own[frame : frame + 1], *shared[:1]):
        for item in functional.get(group) or []:
            if keyword in item:
                return item
    return ds


def _frame(ds: Dataset, index: int, stored: Any, name: str, unit: str) -> Any:
    import numpy as np

    item = _item(ds, index, "PixelValueTransformationSequence", "RescaleSlope")
    values, rescaled = stored.astype(np.float64), True
    if ds.get("ModalityLUTSequence"):
        values, _ = _lut(values, ds.ModalityLUTSequence[0])
    elif item.get("RescaleSlope") is not None:
        values = values * float(item.RescaleSlope) + float(item.get("RescaleIntercept") or 0)
    else:
        rescaled = False
    if not np.isfinite(values).all():
        raise Refused(f"{name}: values are not finite after rescaling")
    if unit:
        if not rescaled or str(item.get("RescaleType") or unit) not in (unit, "HU_MOD", "US"):
            raise Refused(f"{name}: values that are not {unit}: RescaleSlope is missing, or RescaleType is another")
        return values
    voi = _item(ds, index, "FrameVOILUTSequence", "WindowCenter")
    if ds.get("VOILUTSequence"):
        values, bits = _lut(values, ds.VOILUTSequence[0])
        return values / (2**bits - 1)
    if voi.get("WindowCenter") is not None and voi.get("WindowWidth") is not None:
        return _window(values, _first(voi.WindowCenter), _first(voi.WindowWidth),
                       str(voi.get("VOILUTFunction") or "LINEAR"), name)  # fmt: skip
    if stored.dtype == np.uint8 and not rescaled:
        return values / (2 ** int(ds.BitsStored) - 1)
    low, high = values.min(), values.max()
    return (values - low) / (high - low if high > low else 1)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)


def _window(x: Any, center: float, width: float, function: str, name: str) -> Any:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, onto 0..1."""
    import numpy as np

    if not math.isfinite(center) or not math.isfinite(width) or width < (1 if function == "LINEAR" else 1e-12):
        raise Refused(f"{name}: window width must be positive, and at least 1 for the LINEAR function")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -500, 500)))
    if function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise Refused(f"{name}: VOI LUT function must be LINEAR, LINEAR_EXACT or SIGMOID")
    if width == 1:
        return (x > center - 0.5).astype(np.float64)
    return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _lut(x: Any, item: Dataset) -> tuple[Any, int]:
    """Values looked up in a modality or VOI LUT, and the bits of its entries; the ends extend."""
    import numpy as np

    count, first, bits = (int(v) for v in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "u1" if bits == 8 and len(data) < 2 * (count or 65536) else "<u2")
    table = np.asarray(data, np.float64)[: count or 65536]
    return table[np.clip(np.rint(x) - first, 0, len(table) - 1).astype(np.int64)], bits


def provenance(path: str | Path) -> str:
    """The provenance JSON of a DICOM file that `write` made; ValueError where there is none."""
    path = Path(path)
    check_file(path)
    with refusing(path, "DICOM"):
        ds = _open(path, pixels=False)
        for name in ("DerivationDescription", "ImageComments"):
            if ds.get("SyntheticData") == "YES" and str(ds.get(name) or "").startswith("{"):
                return str(ds[name].value)
    raise Refused(f"{path.name}: not written by vlgen")


def _uid(*words: object) -> UID:
    """A UID under 2.25 that follows from the words: the same command gives the same file."""
    from pydicom.uid import UID

    digest = hashlib.sha256("\x1f".join(map(str, words)).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def write(pixels: Tensor, modality: Modality, provenance: Mapping[str, object], path: str | Path) -> Path:
    """Writes one image (1, H, W), in the unit of its modality, as a synthetic Secondary Capture object.

    16-bit MONOCHROME2. HU are stored as integers, as a scanner does (slope 1); SUV fill the 16 bits between the
    lowest and the highest of window and values; relative values fill them between 0 and 1, and saturate there.
    The window is the modality's. Synthetic Data is YES; the provenance is JSON in Derivation Description, or in Image
    Comments where it is longer than 1024 characters. No date, and no identifier of a real patient or study.
    """
    path = Path(path)
    if pixels.ndim != 3 or pixels.shape[0] != 1 or not torch.isfinite(pixels).all():
        raise ValueError(f"pixels of shape {tuple(pixels.shape)}: give finite values of shape (1, H, W)")
    text = compact({**provenance, "synthetic": True})
    if len(text) > 10240:
        raise ValueError(f"a provenance of {len(text)} characters: DICOM holds 10240, so leave the report out")
    stored, slope, intercept = _store_levels(pixels[0].double(), modality)
    ds = _synthetic(text, provenance, modality, stored.numpy().astype("<u2").tobytes())
    ds.Rows, ds.Columns = pixels.shape[1:]
    low, high = modality.window
    if modality.unit:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = slope, intercept, modality.unit
    else:
        low, high = 0, 65535
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = _ds((low + high) / 2), _ds(high - low), "LINEAR_EXACT"
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return store(path, file.getvalue())


def _ds(value: float) -> float:
    """The value as a DICOM decimal string keeps it: 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return float(format_number_as_ds(float(value)))


def _store_levels(x: Tensor, modality: Modality) -> tuple[Tensor, float, float]:
    """Stored values 0..65535, and the slope and intercept that lead back to the unit."""
    low, high = modality.window
    if modality.unit == "HU":
        slope, intercept = 1.0, float(min(-1024, math.floor(x.min())))
    elif modality.unit:
        intercept = _ds(min(low, float(x.min())))
        slope = _ds((max(high, float(x.max())) - intercept) / 65535)
    else:
        slope, intercept, x = 1 / 65535, 0.0, x.clamp(0, 1)
    stored = ((x - intercept) / slope).round()
    if stored.max() > 65535:
        raise ValueError(f"values up to {float(x.max()):g} {modality.unit}: 16 bits hold {65535 + intercept:g} at most")
    return stored.clamp(min=0).to(torch.int32), slope, intercept


def _synthetic(text: str, provenance: Mapping[str, object], modality: Modality, pixels: bytes) -> Dataset:
    """All attributes of a synthetic Secondary Capture but those of geometry and values (PS3.3 A.8.1)."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    # Images that differ in their seed alone form one study and one series.
    common = compact({key: value for key, value in provenance.items() if key != "seed"})
    ds, meta, seed = Dataset(), FileMetaDataset(), provenance.get("seed")
    ds.SOPClassUID = meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = _uid(text, hashlib.sha256(pixels).hexdigest())
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, _uid("vlgen")
    meta.ImplementationVersionName = "VLGEN"
    ds.file_meta, ds.preamble = meta, b"\0" * 128
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType, ds.SyntheticData, ds.ConversionType = ["DERIVED", "SECONDARY"], "YES", "SYN"
    ds.Modality, ds.BurnedInAnnotation = modality.dicom, "NO"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", common), _uid("series", common)
    ds.PatientID = f"SYNTHETIC-{_uid('study', common)[-12:]}"
    ds.PatientName, ds.SeriesDescription = "SYNTHETIC", f"SYNTHETIC {modality.title}"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ds.PatientOrientation = ""
    ds.SeriesNumber = None
    ds.InstanceNumber = seed if isinstance(seed, int) and 0 <= seed < 2**31 else None
    ds.Manufacturer = "vlgen"
    software = str(provenance.get("software") or "vlgen")[:64]
    purpose, tool = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    tool.Manufacturer, tool.ManufacturerModelName, tool.SoftwareVersions = "vlgen", "vlgen", software
    tool.ContributionDescription = "Synthesized by a generative model; shows no patient"
    tool.PurposeOfReferenceCodeSequence = [purpose]
    ds.ContributingEquipmentSequence = [tool]
    if len(text) <= 1024:
        ds.DerivationDescription = text
    else:
        ds.DerivationDescription, ds.ImageComments = "Synthesized by vlgen, see Image Comments", text
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelData = 16, 16, 15, pixels
    return ds
