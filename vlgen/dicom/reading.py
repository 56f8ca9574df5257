"""DICOM in: pixels in their unit, and facts from an allow-list; names, identifiers and dates stay behind."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from vlgen.dicom.values import item_of, pixels
from vlgen.files import Refused, check_file, refusing

if TYPE_CHECKING:
    from pydicom import Dataset

# What leaves a file besides its pixels. Names, identifiers and dates are absent on purpose.
FACTS = (
    "Modality", "PatientSex", "PatientAge", "ViewPosition", "BodyPartExamined", "SliceThickness", "PixelSpacing",
    "PhotometricInterpretation", "Laterality", "ImageLaterality", "KVP", "Manufacturer", "BurnedInAnnotation",
)  # fmt: skip
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
MAX_FRAMES = 10_000


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does; False too for one that cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """The attributes of a DICOM file, all or only those, without its pixels; Refused for what is not readable."""
    check_file(path)
    with refusing(path, "DICOM"):
        return _open(path, pixels=False, keywords=keywords)


def frames(path: Path) -> int:
    """How many frames a DICOM file says that it has; Refused for more than 10,000."""
    check_file(path)
    with refusing(path, "DICOM"):
        count = max(1, int(_open(path, pixels=False, keywords=("NumberOfFrames",)).get("NumberOfFrames") or 1))
        if count > MAX_FRAMES:
            raise Refused(f"{path.name}: more than {MAX_FRAMES:,} frames, the most that are read")
        return count


def facts(path: str | Path, *, salt: str = "vlgen") -> dict[str, str]:
    """The allow-listed attributes of a DICOM file (FACTS), and what follows from others.

    unit     of its values: "HU", "SUV", or "" where they are relative
    aspect   how far its rows are apart, in distances of its columns; absent where the file does not say
    patient  a salted hash of whom it is of, or of the study where no patient is named
    """
    path = Path(path)
    check_file(path)
    with refusing(path, "DICOM"):
        return _facts(_open(path, pixels=False), salt)


def read(path: str | Path, *, salt: str = "vlgen", frame: int | None = None) -> tuple[Tensor, dict[str, str]]:
    """Pixels (frames, H, W) float32 in their unit, and the facts of a DICOM file; or one frame alone, counted from 0.

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
        return pixels(ds, path.name, known["unit"], frame), known


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


def _open(path: Path, *, pixels: bool = True, keywords: Sequence[str] | None = None) -> Dataset:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    # The transfer syntax is read before the rest: a deflated megabyte may inflate to gigabytes.
    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) in DEFLATED:
        raise Refused(f"{path.name}: deflated DICOM is refused; save it uncompressed or as JPEG 2000")
    return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=list(keywords) if keywords else None)


def _facts(ds: Dataset, salt: str) -> dict[str, str]:
    found = {}
    for name in FACTS:
        value = ds.get(name)
        if value not in (None, ""):
            found[name] = str(value)[:64]
    found["ContrastBolusAgent"] = "yes" if ds.get("ContrastBolusAgent") else "no"
    names = (str(ds.get(name) or "").strip() for name in ("PatientID", "PatientName", "StudyInstanceUID"))
    patient = next(filter(None, names), "")
    # The same patient in two files can be told, the patient cannot: enough for a patient-wise split.
    found["patient"] = hashlib.sha256(f"{salt}\x1f{patient}".encode()).hexdigest()[:16] if patient else ""
    kind = str(ds.get("RescaleType") or "")
    found["unit"] = "SUV" if kind == "SUV" else "HU" if ds.get("Modality") == "CT" or kind == "HU" else ""
    if aspect := _aspect(ds):
        found["aspect"] = f"{aspect:.6g}"
    return found


def _aspect(ds: Dataset) -> float | None:
    """The distance of rows over that of columns, from the first attribute that says it."""
    measures = item_of(ds, 0, "PixelMeasuresSequence", "PixelSpacing")
    for item, name in (
        (measures, "PixelSpacing"),
        (ds, "ImagerPixelSpacing"),
        (ds, "NominalScannedPixelSpacing"),
        (ds, "PixelAspectRatio"),  # vertical over horizontal size: rows over columns too
    ):
        value = item.get(name)
        if value is None or isinstance(value, str | float | int) or len(value) != 2:
            continue
        rows, columns = (float(part) for part in value)
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return rows / columns
    return None
