"""NIfTI volumes: slices of a named plane, as a viewer shows them."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from vlgen.files import MAX_BYTES, Refused, check_file, refusing

# The axis that a plane cuts across, where voxels run to the patient's right, front and top (RAS+).
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
MAX_VOXELS = 1 << 28  # 1 GiB as float32
MAX_HEADER = 1 << 24  # a header and its extensions: a gzip of a kilobyte may put terabytes before the voxels
SHOWN = 0.1  # a slice shows something if this share of it lies above a tenth of the volume's range


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as slices.

    values   (slices, H, W) float32 as stored, rescaled by the header's slope and intercept. Slices run to the right,
             the front or the top; in each the top is up (axial: the front is), and the patient's right is on the left,
             as a radiologist looks at them (sagittal: the front is on the left)
    spacing  (rows, columns) mm between the pixels of a slice
    """

    values: Tensor
    spacing: tuple[float, float]


def read(path: str | Path, plane: str) -> Volume:
    """The slices of a NIfTI volume in a plane: axial, coronal or sagittal.

    Slices are those of the stored axis that lies nearest to the plane's, never resampled: of an oblique volume they
    are oblique too. The last volume is kept. Raises ValueError for what is no volume, for one whose header does not say
    how it lies in the patient, and for values that are not finite.
    """
    path = Path(path)
    if plane not in PLANES:
        raise Refused(f"{path.name}: a volume; say which slices to take: {', '.join(sorted(PLANES))} (--plane)")
    check_file(path)
    return _read(path, (path.stat().st_mtime_ns, path.stat().st_size), plane)


@lru_cache(maxsize=1)  # the slices of a volume follow one another
def _read(path: Path, _: tuple[int, int], plane: str) -> Volume:
    image, turn, sizes = _lying(path)
    across = PLANES[plane]
    columns, rows = (axis for axis in range(3) if axis != across)
    with refusing(path, "NIfTI"):
        import nibabel
        import numpy as np

        x = np.asarray(image.dataobj, np.float32).reshape(image.shape[:3])
        x = nibabel.orientations.apply_orientation(x, turn)  # type: ignore[no-untyped-call]
        # Rows from the top, and columns from the patient's right or front: both against the voxels' own direction.
        turned = np.moveaxis(x, (across, rows, columns), (0, 1, 2))[:, ::-1, ::-1]
        values = torch.from_numpy(np.ascontiguousarray(turned))
    if not bool(torch.isfinite(values).all()):
        raise Refused(f"{path.name}: values must be finite")
    return Volume(values, (sizes[rows], sizes[columns]))


def count(path: str | Path, plane: str) -> int:
    """How many slices a volume has in a plane, by its header."""
    image, turn, _ = _lying(Path(path))
    return int(next(n for n, (axis, _) in zip(image.shape, turn, strict=False) if axis == PLANES[plane]))


def _lying(path: Path) -> tuple[Any, Any, list[float]]:
    """The image, its voxels unread; how its axes must be turned to become RAS+; and their mm after that."""
    _check_header(path)
    try:
        import nibabel
    except ImportError:
        raise ValueError("NIfTI needs nibabel, which is not installed: pip install nibabel") from None
    import numpy as np

    with refusing(path, "NIfTI"):
        image: Any = nibabel.load(path)
        shape = [int(n) for n in image.shape]
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 1):
            held = f"{shape[3]} volumes" if len(shape) == 4 else f"{len(shape)} axes"
            raise Refused(f"{path.name}: a volume has three axes, this file {held}: give one file for each volume")
        kind = image.get_data_dtype()
        if kind.kind not in "fiu":
            raise Refused(f"{path.name}: its voxels must be real numbers")
        if not 0 < math.prod(shape) <= min(MAX_VOXELS, MAX_BYTES // kind.itemsize):
            raise Refused(f"{path.name}: more than {MAX_VOXELS:,} voxels or 1 GiB, the most that is read, or none")
        if not int(image.header["qform_code"]) and not int(image.header["sform_code"]):
            raise Refused(
                f"{path.name}: its header does not say how it lies in the patient, so left and right are not known: "
                "set its sform or qform"
            )
        sizes = nibabel.affines.voxel_sizes(image.affine)  # type: ignore[no-untyped-call]
        turn = nibabel.io_orientation(image.affine)  # type: ignore[no-untyped-call]
        if not np.isfinite(image.affine).all() or not (sizes > 0).all() or not np.isfinite(turn).all():
            raise Refused(f"{path.name}: its affine has no three axes of finite length")
        return image, turn, [float(sizes[int(np.flatnonzero(turn[:, 0] == axis)[0])]) for axis in range(3)]


def _check_header(path: Path) -> None:
    """Refuses what does not begin as one NIfTI file, or has its voxels far behind its header."""
    check_file(path)
    with refusing(path, "NIfTI"):
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            head = file.read(540)
        for order in "<>":
            size = struct.unpack(f"{order}i", head[:4])[0]
            if size == 348 and head[344:348] == b"n+1\0":
                offset = float(struct.unpack(f"{order}f", head[108:112])[0])
            elif size == 540 and head[4:8] == b"n+2\0":
                offset = float(struct.unpack(f"{order}q", head[168:176])[0])
            else:
                continue
            if not 0 <= offset <= MAX_HEADER:  # NaN too
                raise Refused(f"{path.name}: more than 16 MiB before its voxels")
            return
        raise Refused(f"{path.name}: not a NIfTI file (.nii or .nii.gz, header and voxels in one)")


def range_of(values: Tensor) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile of a volume's values, by at most a million of them at even distances."""
    flat = values.flatten()
    some = flat[:: max(1, len(flat) // 1_000_000)].sort().values
    last = len(some) - 1
    return float(some[round(0.005 * last)]), float(some[round(0.995 * last)])


def slices(path: Path, plane: str, one: str = "") -> list[int]:
    """The slices of a volume that show something, by their number from 0; or the `one` that was asked for.

    Raises Refused where there are none.
    """
    if one and plane in PLANES:
        held = count(path, plane)
        if not (one.isascii() and one.isdecimal() and len(one) < 10) or int(one) >= held:
            raise Refused(f"no slice of that number: the {plane} ones run from 0 to {held - 1}")
        return [int(one)]
    values = read(path, plane).values
    low, high = range_of(values)
    shown = (values > low + 0.1 * (high - low)).flatten(1).float().mean(1) >= SHOWN
    found = [int(k) for k in shown.nonzero().flatten()]
    if not found or high <= low:
        raise Refused("a volume that shows nothing")
    return found


def hashed(path: PurePath) -> str:
    """What tells the patients of volumes apart without their files' names, which may hold a patient's.

    It is of the BIDS subject (sub-...) in the path, or else of the file's own name.
    """
    subject = re.search(r"(?:^|[/_])sub-([A-Za-z0-9]+)", path.as_posix())
    return hashlib.sha256(f"volume\x1f{subject[1] if subject else path.name}".encode()).hexdigest()[:16]
