"""The values of DICOM pixels: modality LUT or rescale, VOI LUT or window, MONOCHROME1, color, frame by frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlgen.files import MAX_PIXELS, Refused

if TYPE_CHECKING:
    from pydicom import Dataset


def pixels(ds: Dataset, name: str, unit: str, frame: int | None = None) -> Tensor:
    """The pixels (frames, H, W) float32 of the data set of a file `name`, or its one frame of that number.

    unit  "HU" or "SUV": the values in it; "": relative values in [0, 1]
    """
    import numpy as np
    from pydicom.pixels.processing import apply_color_lut

    if "PixelData" not in ds:
        raise Refused(f"{name}: no pixel data")
    frames, samples = int(ds.get("NumberOfFrames") or 1), int(ds.get("SamplesPerPixel") or 1)
    if frame is not None and not 0 <= frame < frames:
        raise Refused(f"{name}: no frame of that number: they run from 0 to {frames - 1}")
    numbers = range(frames) if frame is None else range(frame, frame + 1)
    if int(ds.Rows) * int(ds.Columns) * len(numbers) > MAX_PIXELS:
        raise Refused(f"{name}: more than 40 megapixels")
    photometric = str(ds.PhotometricInterpretation)
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR") and not photometric.startswith("YBR"):
        raise Refused(f"{name}: photometric interpretation must be MONOCHROME1, MONOCHROME2, RGB, YBR or PALETTE COLOR")
    raw = _decoded(ds, name, frame)
    if photometric == "PALETTE COLOR":
        raw, samples = apply_color_lut(raw, ds), 3
    if samples == 3 and unit:
        raise Refused(f"{name}: a color picture of a CT, so its values are not {unit}")
    if samples == 3:
        peak = np.iinfo(raw.dtype).max if photometric == "PALETTE COLOR" else 2 ** int(ds.BitsStored) - 1
        color = raw.reshape(len(numbers), *raw.shape[-3:])[..., :3].astype(np.float64) / peak
        values = color @ np.array([0.299, 0.587, 0.114])
    else:
        spare = int(ds.BitsAllocated) - int(ds.BitsStored)
        if int(ds.BitsAllocated) > 1 and spare > 0:
            # Bits above the stored ones may hold anything; the sign sits in the highest stored bit.
            raw = (raw << spare) >> spare
        raw = raw.reshape(len(numbers), *raw.shape[-2:])
        values = np.stack([_frame(ds, k, one, name, unit) for k, one in zip(numbers, raw, strict=True)])
        if not unit and photometric == "MONOCHROME1":
            values = 1 - values
    result = torch.from_numpy(values.astype(np.float32))
    if not torch.isfinite(result).all():
        raise Refused(f"{name}: values are not finite after rescaling")
    return result


def _decoded(ds: Dataset, name: str, frame: int | None) -> Any:
    """The stored values of all frames, or of one, which alone is then unpacked."""
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = ds.file_meta.TransferSyntaxUID
    try:
        return ds.pixel_array if frame is None else pixel_array(ds, index=frame)
    except (RuntimeError, NotImplementedError):
        if syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
            raise
        known = f"as {syntax.name}" if syntax.name != syntax else "in a way that is not known"
        raise Refused(
            f"{name}: compressed {known}, which no decoder here can read: install python-gdcm, or for JPEG 2000 "
            "pylibjpeg-openjpeg, or save it uncompressed"
        ) from None


def item_of(ds: Dataset, frame: int, group: str, keyword: str) -> Dataset:
    """Where `keyword` stands for this frame: in its functional group, in the shared one, or at the top."""
    own, shared = ds.get("PerFrameFunctionalGroupsSequence") or [], ds.get("SharedFunctionalGroupsSequence") or []
    for functional in (*own[frame : frame + 1], *shared[:1]):
        items: list[Dataset] = functional.get(group) or []
        for item in items:
            if keyword in item:
                return item
    return ds


def _frame(ds: Dataset, index: int, stored: Any, name: str, unit: str) -> Any:
    import numpy as np

    item = item_of(ds, index, "PixelValueTransformationSequence", "RescaleSlope")
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
    voi = item_of(ds, index, "FrameVOILUTSequence", "WindowCenter")
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
