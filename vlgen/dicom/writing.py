"""DICOM out: synthetic Secondary Capture objects, marked as such."""

from __future__ import annotations

import hashlib
import io
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlgen.files import compact, store
from vlgen.modality import Modality

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID


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
