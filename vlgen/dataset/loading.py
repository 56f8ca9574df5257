"""Loading: the image of a row as a backbone sees it, in the window of its modality, square and never stretched."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vlgen import images, nifti
from vlgen.dataset.rows import VOLUMES, Row
from vlgen.files import Refused
from vlgen.modality import Modality

# Windows of CT by name, in HU, as viewers offer them: (level - width / 2, level + width / 2).
WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-1350.0, 150.0),
    "mediastinum": (-160.0, 240.0),
    "abdomen": (-150.0, 250.0),
    "liver": (-45.0, 105.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
    "subdural": (-20.0, 180.0),
}
GREY = 2 / 255  # what an 8-bit screen can show of [-1, 1]; less is nothing to learn from
SHALLOW = 4096 / 65536  # 16 bits that stay below hold 12 bits or fewer, and would be all but black


def windowed(kind: Modality, window: str) -> Modality:
    """A modality with another window: a preset of CT such as "lung", or "LOW,HIGH" in its unit; "" is its own.

    Raises ValueError for a modality without a unit, whose values are relative to the image itself.
    """
    if not window:
        return kind
    if not kind.unit:
        raise ValueError(f"window {window!r}: values of {kind.name} have no unit, so leave the window out")
    if kind.unit == "HU" and window in WINDOWS:
        return replace(kind, window=WINDOWS[window])
    try:
        low, high = (float(end) for end in window.split(","))
    except ValueError:
        presets = f", or one of {', '.join(WINDOWS)}" if kind.unit == "HU" else ""
        raise ValueError(f"window {window!r}: give LOW,HIGH in {kind.unit}{presets}") from None
    if not -1e6 < low < high < 1e6:  # NaN too
        raise ValueError(f"window {window!r}: give the lower end first, both finite, in {kind.unit}")
    return replace(kind, window=(low, high))


def load(row: Row, modality: Modality, size: int, *, fit: str = "crop") -> Tensor:
    """The image of a row as a backbone sees it: (1, size, size) in [-1, 1].

    fit  crop, the central square, or letterbox, the whole image with a margin of its lowest value

    DICOM, NPY and NIfTI go through the window of the modality. PNG, JPEG and TIFF know no unit: their black and white
    are taken for the ends of that window. A NIfTI volume knows none either: it is taken to be in the modality's, and
    where that has none its values from the 0.5th to the 99.5th percentile become relative. Where a file says that its
    pixels are not square, they become so; where it says nothing they are taken to be.

    Raises ValueError, with the row's line and without the file's name, where the file's unit is not the modality's,
    where relative values leave [0, 1], and where 16 bits hold 12 or fewer: what they would become is not the image.
    """
    try:
        x, aspect, pictorial = _read(row, modality)
        x = images.fit(x, size, fit, aspect=aspect)
    except ValueError as reason:
        raise Refused(f"line {row.line}: {str(reason).removeprefix(f'{row.file.name}: ')}") from None
    return x * 2 - 1 if pictorial else modality.encode(x)


def _read(row: Row, modality: Modality) -> tuple[Tensor, float, bool]:
    """(1, H, W), how far its rows are apart in distances of its columns, and whether it is in [0, 1] of the window."""
    if row.file.name.lower().endswith(VOLUMES):
        volume = nifti.read(row.file, row.plane)
        number, (rows, columns) = row.index or 0, volume.spacing
        if number >= len(volume.values):
            raise Refused(f"no slice of that number: they run from 0 to {len(volume.values) - 1}")
        x = volume.values[number][None]
        if not modality.unit:
            low, high = _range(row.file, row.file.stat().st_mtime_ns, row.plane)
            x = ((x - low) / max(high - low, 1e-6)).clamp(0, 1)
        return x, rows / columns, False
    x, facts = images.read_with_facts(row.file, frame=row.index)
    if len(x) != 1:
        raise Refused(f"{len(x)} channels or frames; give one image per file")
    unit, pictorial = facts.get("unit", modality.unit), facts["format"] in ("PNG", "JPEG", "TIFF") and not facts["unit"]
    if unit != modality.unit and not pictorial:
        has, wants = unit or "relative units", modality.unit or "relative units"
        raise Refused(f"the file's values are in {has}, those of {modality.name} must be in {wants}")
    if facts.get("depth") in ("16 bit", "uint16") and not unit and float(x.max()) < SHALLOW:
        raise Refused("its 16 bits hold 12 or fewer, so it would be all but black: scale its values to 65535")
    if not unit and not (float(x.min()) >= -1e-3 and float(x.max()) <= 1 + 1e-3):
        raise Refused(
            f"values from {float(x.min()):g} to {float(x.max()):g}, where relative ones lie in 0 to 1: scale them"
        )
    return x, float(facts.get("aspect", 1)), pictorial


@lru_cache(maxsize=1)  # the slices of a volume follow one another
def _range(path: Path, _: int, plane: str) -> tuple[float, float]:
    return nifti.range_of(nifti.read(path, plane).values)


def constant(x: Tensor) -> bool:
    """Whether an image in [-1, 1] shows nothing: less than one of 256 gray levels lies between its ends."""
    return not bool(torch.isfinite(x).all()) or bool((x.amax() - x.amin()) < GREY)
