"""Partners: which reconstruction belongs to which reference, and whether the two can be compared."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from vlgen.evaluate.collection import KINDS
from vlgen.files import Refused
from vlgen.images import read_with_facts
from vlgen.modality import MODALITIES, Modality

Window = tuple[float, float]
RELATIVE, UNSTATED = "relative", "unstated"


@dataclass(frozen=True)
class Files:
    """A reference, its reconstruction and its mask, under the relative name that they share, without ending."""

    name: str
    reference: Path
    reconstruction: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Terms:
    """In what terms two partners are compared.

    unit      "HU", "SUV", "relative" or "unstated"
    window    (low, high) in that unit; its width is the peak of PSNR and SSIM
    patient   what tells patients apart; "" where unknown
    formats   of the two files
    assumed   how many of the two did not say their unit
    """

    unit: str
    window: Window
    patient: str = field(repr=False)
    formats: tuple[str, str]
    assumed: int


@dataclass(frozen=True, eq=False)
class Loaded:
    """The values of two partners, in one unit.

    reference, reconstruction  (C, H, W); C counts the slices of a volume
    inside                     (C, H, W) bool, where the mask is not 0; None without a mask
    """

    reference: Tensor
    reconstruction: Tensor
    inside: Tensor | None
    terms: Terms


def match(reference: Path, reconstructed: Path, masks: Path | None) -> tuple[list[Files], list[tuple[str, str]]]:
    """The pairs of two folders (and their masks) in the order of their names, and (name, reason) of what has no pair.

    Two files are one pair whatever their names. Raises ValueError for what does not exist, and for a folder and a file.
    """
    given = {"reference": reference, "reconstruction": reconstructed} | ({"mask": masks} if masks else {})
    if missing := [str(path) for path in given.values() if not path.exists()]:
        raise ValueError(f"{missing[0]} does not exist: give two folders of images, or two files")
    if len({path.is_dir() for path in given.values()}) > 1:
        raise ValueError(
            f"{', '.join(map(str, given.values()))} are folders and files: give folders only, or files only"
        )
    if not reference.is_dir():
        return [Files(reference.name, reference, reconstructed, masks)], []
    listed = {role: _listed(folder) for role, folder in given.items()}
    matched, refused = list[Files](), list[tuple[str, str]]()
    for name in sorted({*listed["reference"], *listed["reconstruction"]}):
        found = {role: listed[role].get(name, []) for role in given}
        reasons = [
            f"several files of that name, {', '.join(path.name for path in paths)}" if paths else f"no {role}"
            for role, paths in found.items()
            if len(paths) != 1
        ]
        if reasons:
            refused.append((name, " and ".join(reasons)))
        else:
            matched.append(Files(name, *(paths[0] for paths in found.values())))
    return matched, refused


def load(files: Files, kind: Modality | None, window: Window | None) -> Loaded:
    """The values of two partners; Refused where they do not fit each other, their mask, or the modality.

    A file that does not say its unit is taken to be in that of the modality, or else of its partner, unless its values
    plainly are not.
    """
    (x, known), (y, told) = _read(files.reference, "reference"), _read(files.reconstruction, "reconstruction")
    if x.shape != y.shape:
        raise Refused(f"the reference is {_shape(x)}, the reconstruction {_shape(y)}, and nothing is resized")
    if x.shape[-1] <= 4 < len(x):
        raise Refused(f"{_shape(x)} looks like channels last: save it as (H, W) or (C, H, W)")
    stated = [facts["unit"] or RELATIVE for facts in (known, told) if "unit" in facts]
    if len(set(stated)) > 1:
        raise Refused(f"the reference is in {stated[0]}, the reconstruction in {stated[1]} units")
    if kind and set(stated) - {kind.unit or RELATIVE}:
        raise Refused(f"its values are in {stated[0]} units, those of {kind.name} in {kind.unit or RELATIVE}")
    if not (stated or kind or window):
        raise Refused("neither file says its unit: give the modality, or the window of the values")
    unit = stated[0] if stated else (kind.unit or RELATIVE) if kind else UNSTATED
    usual = kind or next((m for m in MODALITIES.values() if (m.unit or RELATIVE) == unit), None)
    span = window or (usual.window if usual else (0.0, 1.0))
    silent = [values for values, facts in ((x, known), (y, told)) if "unit" not in facts]
    if any(_foreign(values, unit, span) for values in silent):
        raise Refused(f"an array that does not say its unit does not look like {unit} values: save it in that unit")
    terms = Terms(unit, span, known.get("patient", ""), (known["format"], told["format"]), len(silent))
    return Loaded(x, y, _inside(files.mask, x), terms)


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Relative name without ending -> the files that bear it: images by their endings, and DICOM by its content."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        known = path.suffix.lower() in KINDS
        if known or _is_dicom(path):
            found.setdefault((name.with_suffix("") if known else name).as_posix(), []).append(path)
    return found


def _is_dicom(path: Path) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def _read(path: Path, role: str) -> tuple[Tensor, dict[str, str]]:
    try:
        return read_with_facts(path)
    except ValueError as error:
        raise Refused(f"{role} unreadable, {str(error).removeprefix(f'{path.name}: ')}") from None


def _foreign(values: Tensor, unit: str, window: Window) -> bool:
    """Whether values are on another scale altogether: a network's [-1, 1] beside a picture's [0, 1], or beside HU."""
    low, high = float(values.min()), float(values.max())
    spare = (window[1] - window[0]) / 2
    beyond = low < window[0] - spare or high > window[1] + spare
    return beyond if unit == RELATIVE else unit == "HU" and -1 <= low <= high <= 1


def _inside(path: Path | None, x: Tensor) -> Tensor | None:
    if path is None:
        return None
    mask, facts = _read(path, "mask")
    if facts["format"] == "JPEG":
        raise Refused("the mask is a JPEG, whose zeros are not exact: save it as PNG")
    if mask.shape[-2:] != x.shape[-2:] or len(mask) not in (1, len(x)):
        raise Refused(f"the mask is {_shape(mask)}, the images are {_shape(x)}, and nothing is resized")
    if not bool(mask.any()):
        raise Refused("the mask is empty")
    return (mask != 0).expand_as(x)


def _shape(x: Tensor) -> str:
    return f"{x.shape[-1]} x {x.shape[-2]}" + f" x {len(x)} slices" * (len(x) > 1)
