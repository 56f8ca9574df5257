"""Images in and out of files: values in their unit, and the provenance that marks each one as synthetic."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from vlgen import dicom
from vlgen.files import MAX_PIXELS, Refused, check_file, compact, marks, refusing, store
from vlgen.modality import Modality
from vlgen.sheet import picture, png, sheet

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = {"png": "png", "npy": "npy", "dicom": "dcm"}


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images, what their numbers mean, and where each one came from.

    pixels      (B, 1, H, W) float32 in the unit of the modality
    modality    its unit and window
    provenance  one mapping per image, as it will stand in the file
    """

    pixels: Tensor
    modality: Modality
    provenance: tuple[Mapping[str, object], ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 1 or len(self.pixels) != len(self.provenance):
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} with {len(self.provenance)} provenance records: "
                "give (B, 1, H, W) and one record per image"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]

    def shown(self) -> Tensor:
        """(B, 1, H, W) in [0, 1]: the images through the window of their modality, as a viewer shows them."""
        return (self.modality.encode(self.pixels.detach().float().cpu()) + 1) / 2

    def pil(self) -> list[Image.Image]:
        """The images as 8-bit grey PIL images through the window of their modality."""
        return [picture(x[0], 8) for x in self.shown()]


def read(path: str | Path) -> Tensor:
    """One image file as (C, H, W) float32: DICOM and NPY in their unit, pictures in [0, 1].

    PNG, JPEG, TIFF  [0, 1] by the bit depth; color becomes luminance (0.299 R + 0.587 G + 0.114 B), transparency
                     lies on black, the orientation tag is obeyed; C = 1. A PNG that vlgen wrote comes back in its unit
    NPY              (H, W) or (C, H, W); uint8 and uint16 become [0, 1], other numbers stay as they are
    DICOM            HU for CT, relative [0, 1] otherwise; C counts frames (vlgen.dicom.read)

    Files are told by their content, not their name. Raises ValueError in one sentence for anything else.
    """
    return read_with_facts(path)[0]


def read_with_facts(path: str | Path, *, frame: int | None = None) -> tuple[Tensor, dict[str, str]]:
    """As read, and what the file says of itself; of a multi-frame DICOM, one frame alone, counted from 0.

    The fact `unit` is "HU" or "SUV", "" for relative values in [0, 1], and absent where the file does not say. The fact
    `format` is DICOM, NPY, PNG, JPEG or TIFF, and `depth` says how a picture or an array holds its values: "8 bit",
    "16 bit", "8 bit color", "float32"; the rest comes from DICOM. Resolution tags of pictures are not obeyed.
    """
    path = Path(path)
    check_file(path)
    with refusing(path, "image"), open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        x, facts = dicom.read(path, frame=frame)
        return x, {**facts, "format": "DICOM"}
    if frame is not None:
        raise Refused(f"{path.name}: only DICOM has frames")
    if head.startswith(b"\x93NUMPY"):
        with refusing(path, "NPY"):
            return _read_npy(path)
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")):
        with refusing(path, "image"):
            return _read_picture(path)
    raise Refused(f"{path.name}: not a PNG, JPEG, TIFF, NPY or DICOM file")


def _check(x: Tensor, name: str) -> Tensor:
    if x.numel() == 0 or not torch.isfinite(x).all():
        raise Refused(f"{name}: values must be finite and there must be at least one")
    return x


def _read_npy(path: Path) -> tuple[Tensor, dict[str, str]]:
    import numpy as np

    # Mapped, not read: a header that promises more than the file holds fails before memory is taken.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
        raise Refused(f"{path.name}: an NPY image is (H, W) or (C, H, W) of real numbers")
    if array.size > MAX_PIXELS:
        raise Refused(f"{path.name}: more than 40 megapixels")
    known = {"format": "NPY", "depth": str(array.dtype)}
    with suppress(Refused):  # a file from elsewhere does not say its unit
        known["unit"] = str(info(path).get("unit") or "")
    with np.errstate(all="ignore"):  # what overflows is refused by _check
        values = np.asarray(array, np.float32)
    if array.dtype in (np.uint8, np.uint16):
        values, known["unit"] = values / np.float32(np.iinfo(array.dtype).max), ""
    x = torch.from_numpy(np.array(values))
    return _check(x[None] if x.ndim == 2 else x, path.name), known


def _read_picture(path: Path) -> tuple[Tensor, dict[str, str]]:
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Refused(f"{path.name}: more than 40 megapixels")
        if getattr(image, "n_frames", 1) > 1:
            raise Refused(f"{path.name}: holds several pictures; save each in a file of its own")
        known, tags = {"format": str(image.format), "unit": ""}, getattr(image, "tag_v2", {})
        known["depth"] = {"1": "1 bit", "L": "8 bit"}.get(image.mode, "16 bit" if "16" in image.mode else "8 bit color")
        recorded = image.info.get("vlgen")
        depth = 2 ** int(tags.get(258, (16,))[0]) - 1  # TIFF BitsPerSample: 12-bit pixels sit in 16
        inverted = tags.get(262) == 0  # TIFF WhiteIsZero, which Pillow undoes for 8 bits only
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("I;16", "I;16L", "I;16B"):
            grey = np.asarray(upright).astype(np.float64) / depth
            grey = 1 - grey if inverted else grey
        elif upright.mode in ("1", "L"):
            grey = np.asarray(upright.convert("L"), np.float64) / 255
        elif upright.mode in ("P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr"):
            whole = upright.convert("RGB") if upright.mode in ("CMYK", "YCbCr") else upright
            rgba = np.asarray(whole.convert("RGBA"), np.float64) / 255
            grey = rgba[..., :3] @ np.array([0.299, 0.587, 0.114]) * rgba[..., 3]
        else:
            raise Refused(f"{path.name}: pixels of kind {upright.mode} have no bit depth; save 8 or 16 bits, or NPY")
    x = torch.from_numpy(grey.astype(np.float32))[None]
    if isinstance(recorded, str):
        provenance = marks(recorded, path.name)
        if provenance.get("unit"):
            low, high = (float(v) for v in provenance["window"])
            x, known["unit"] = x * (high - low) + low, str(provenance["unit"])
    return _check(x, path.name), known


def fit(x: Tensor, size: int, how: str = "crop", *, fill: float | None = None, aspect: float = 1.0) -> Tensor:
    """An image (C, H, W) as (C, size, size), resized with an antialiased bicubic filter and never stretched.

    crop       the central square
    letterbox  the whole image, padded with `fill` (by default its lowest value)
    aspect     of a pixel of x: its height over its width. The result has square pixels; 1 % is let pass

    The result stays within the range of x: the filter's overshoot is cut. Raises ValueError for an aspect beyond
    1 : 20, which no image has.
    """
    if how not in ("crop", "letterbox") or size < 1 or x.ndim != 3:
        raise ValueError(
            f"fit of shape {tuple(x.shape)} to {size} by {how!r}: give (C, H, W), a size above 0, and crop or letterbox"
        )
    if not 0.05 <= aspect <= 20:  # NaN too
        raise ValueError(f"pixels {aspect:g} times as tall as wide: give at most 20 and at least 0.05")
    if abs(aspect - 1) < 0.01:  # half a pixel in 50: less than is lost to rounding where the square is cut
        aspect = 1.0
    tall, width = x.shape[-2] * aspect, x.shape[-1]  # both in widths of a pixel
    low, high = x.min(), x.max()
    if how == "crop":
        side = min(tall, width)
        rows, columns = max(1, round(side / aspect)), max(1, round(side))
        top, left = (x.shape[-2] - rows) // 2, (x.shape[-1] - columns) // 2
        x, new = x[:, top : top + rows, left : left + columns], [size, size]
    else:
        scale = size / max(tall, width)
        new = [max(1, round(tall * scale)), max(1, round(width * scale))]
    if list(x.shape[-2:]) != new:
        x = functional.interpolate(x[None].float(), new, mode="bicubic", antialias=True, align_corners=False)[0]
        x = x.clamp(low, high)
    down, right = size - x.shape[-2], size - x.shape[-1]
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    return functional.pad(x, padding, value=float(low if fill is None else fill)) if right or down else x


def info(path: str | Path) -> dict[str, Any]:
    """The provenance of a file that vlgen wrote: PNG, NPY (from the sidecar) or DICOM; ValueError for all others."""
    from PIL import Image

    path = Path(path)
    check_file(path)
    with refusing(path, "image"):
        with open(path, "rb") as file:
            head = file.read(132)
        text: object = None
        if head[128:] == b"DICM":
            text = dicom.provenance(path)
        elif head.startswith(b"\x89PNG"):
            with Image.open(path, formats=("PNG",)) as image:
                text = image.info.get("vlgen")
        elif head.startswith(b"\x93NUMPY") and path.with_suffix(".json").is_file():
            text = path.with_suffix(".json").read_text("utf-8")
        return marks(text if isinstance(text, str) else "null", path.name)


def _npy(x: Tensor) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, x.numpy(), allow_pickle=False)
    return file.getvalue()


def write(
    images: Images, folder: str | Path, *, format: str = "png", grid: bool = False, keep_report: bool = False
) -> list[Path]:
    """Writes each image with its provenance; returns the paths, in order, and last that of the contact sheet if asked.

    png    8-bit grey where values are relative; 16-bit over the modality's window where they have a unit
    npy    (1, H, W) float32 in the unit of the modality, and the provenance in a JSON file of the same name
    dicom  Secondary Capture (vlgen.dicom.write)

    Files are called modality_seed_hash; the hash is that of the provenance, so that the same command overwrites its
    own files, each as a whole. `report` and `negative` are left out of the files unless keep_report. Raises
    ValueError where the folder cannot be written.
    """
    if format not in ENDINGS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(ENDINGS)}")
    folder, modality = Path(folder), images.modality
    pixels, shown = images.pixels.detach().float().cpu(), images.shown()
    if not torch.isfinite(pixels).all():
        raise ValueError("images with values that are not finite cannot be written: draw them again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}") from None
    fixed = {"synthetic": True, "modality": modality.name, "unit": modality.unit, "window": list(modality.window)}
    fixed["size"] = list(pixels.shape[-2:])
    paths: list[Path] = []
    records: list[dict[str, object]] = []
    for x, view, given in zip(pixels, shown, images.provenance, strict=True):
        public = {key: value for key, value in given.items() if key not in ("report", "negative")} | fixed
        record = {**given, **fixed} if keep_report else public
        stem = f"{modality.name}_{public.get('seed', 'x')}_{hashlib.sha256(compact(public).encode()).hexdigest()[:8]}"
        count = sum(path.stem == stem or path.stem.startswith(f"{stem}-") for path in paths)
        path = folder / f"{stem}{f'-{count + 1}' if count else ''}.{ENDINGS[format]}"
        if format == "dicom":
            dicom.write(x, modality, record, path)
        elif format == "npy":  # the mark first, so that no image is ever without it
            store(path.with_suffix(".json"), compact(record).encode())
            store(path, _npy(x))
        else:
            store(path, png(picture(view[0], 16 if modality.unit else 8), record))
        paths.append(path)
        records.append(record)
    if grid and paths:
        across = math.ceil(math.sqrt(len(shown)))
        rows = [list(shown[k : k + across]) for k in range(0, len(shown), across)]
        sums = hashlib.sha256("".join(path.stem for path in paths).encode()).hexdigest()[:8]
        record = {**fixed, "unit": "", "sheet": records}
        paths.append(store(folder / f"{modality.name}_sheet_{sums}.png", png(sheet(rows), record)))
    return paths
