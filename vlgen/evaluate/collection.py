"""Collections: a folder of images as an evaluation sees it, what is known of each, and what was left out and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen import images
from vlgen.checkpoint import sha256
from vlgen.dataset import records, report_text
from vlgen.dataset.tables import patient_of
from vlgen.evaluate.facts import known_findings, known_traits
from vlgen.features import Extractor
from vlgen.files import Refused, store
from vlgen.images import fit
from vlgen.modality import MODALITIES
from vlgen.report import Report

KINDS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom")
Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class Collection:
    """The images of a folder that can be read, in the order of their names, and what is known of each.

    reports     the text that belongs to each image, "" where unknown
    groups      what must stay on one side of a split: the patient, or the file itself where unknown
    modalities  "cxr", "ct", ...; "" where unknown
    findings    name -> stated present (True) or stated absent (False); what is not stated is missing
    traits      "view", "age group", "sex", "side", "class", where stated
    digests     sha256 of each file
    refused     (relative name, reason) of every file that was left out; none is ever replaced
    stated      n, and how many images have which size, depth and format
    features    extractor -> (N, d)
    """

    folder: Path
    files: tuple[Path, ...]
    reports: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)
    modalities: tuple[str, ...]
    findings: tuple[Mapping[str, bool], ...] = field(repr=False)
    traits: tuple[Mapping[str, str], ...] = field(repr=False)
    digests: tuple[str, ...] = field(default=(), repr=False)
    refused: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    stated: Mapping[str, object] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int, size: int) -> Tensor:
        """(1, size, size) in [0, 1]: the central square of an image, read again from its file."""
        return fit(grey(self.files[index])[0], size)

    def subset(self, rows: Sequence[int] | Tensor) -> Collection:
        """The images of these rows, in their order; `refused` and `stated` remain those of the folder."""
        chosen = [int(row) for row in rows]
        columns: dict[str, Any] = {
            name: tuple(getattr(self, name)[row] for row in chosen)
            for name in ("files", "reports", "groups", "modalities", "findings", "traits", "digests")
            if getattr(self, name)
        }
        return replace(self, **columns, features={name: x[chosen] for name, x in self.features.items()})


@dataclass(frozen=True)
class _One:
    """One image of a collection; its columns are those."""

    file: Path
    report: str
    group: str
    modality: str
    findings: Mapping[str, bool]
    traits: Mapping[str, str]
    digest: str


def grey(path: Path) -> tuple[Tensor, dict[str, str]]:
    """An image file as (1, H, W) in [0, 1], and its facts: HU and SUV through the window of CT and PET.

    Three channels of an array become luminance. Raises ValueError for several frames, and for values outside [0, 1]
    whose unit nobody knows.
    """
    x, facts = images.read_with_facts(path)
    if len(x) == 3 and facts["format"] == "NPY":
        x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        facts["depth"] = f"{facts['depth']}, 3 channels"
    if len(x) != 1:
        raise Refused(f"{path.name}: {len(x)} channels or frames; give one image per file")
    unit = facts.get("unit", "")
    if unit:
        window = next(m for m in MODALITIES.values() if m.unit == unit)
        return (window.encode(x) + 1) / 2, facts
    if float(x.min()) < -1e-3 or float(x.max()) > 1 + 1e-3:
        raise Refused(f"{path.name}: values outside [0, 1] without a unit; save 8 or 16 bits, DICOM, or [0, 1]")
    return x.clamp(0, 1), facts


def gather(
    source: str | Path,
    extractors: Iterable[Extractor] = (),
    *,
    reports: str | Path | None = None,
    cache: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Collection:
    """The collection of a folder, with the features of its images.

    source   a folder, walked through to the bottom; "FOLDER:column=value,column=value" keeps the rows of its
             metadata that say so
    reports  a metadata.csv or .jsonl that replaces the folder's own
    cache    a private folder that keeps feature matrices under the hash of the images and the extractor

    Raises ValueError where there is no such folder, no image in it, or no row that meets the conditions.
    """
    folder, conditions = _conditions(source)
    listed = _records(folder, Path(reports) if reports else None)
    part = ",".join(f"{column}={value}" for column, value in conditions.items())
    for name in conditions:
        if not any(name in record for record in listed.values()):
            raise ValueError(f"{folder} has no metadata column {name!r}: give one that its metadata.csv has")
    chosen = [
        (name, path)
        for name, path in _files(folder)
        if all(listed.get(name, {}).get(column) == value for column, value in conditions.items())
    ]
    if not chosen:
        raise ValueError(
            f"{folder} holds no image{f' with {part}' if part else ''}: give PNG, JPEG, TIFF, NPY or DICOM files"
        )
    extractors, cache = list(extractors), Path(cache) if cache else None
    found, refused, seen = _read(chosen, listed, progress, folder.name)
    if not found:
        raise ValueError(f"none of the {len(chosen)} images in {folder} can be read, the first because {refused[0][1]}")
    whole = Collection(
        folder,
        tuple(one.file for one in found),
        reports=tuple(one.report for one in found),
        groups=tuple(one.group for one in found),
        modalities=tuple(one.modality for one in found),
        findings=tuple(one.findings for one in found),
        traits=tuple(one.traits for one in found),
        digests=tuple(one.digest for one in found),
        refused=tuple(refused),
        stated={
            "n": len(found),
            **({"part": part} if part else {}),
            **{name: dict(counts.most_common()) for name, counts in seen.items()},
        },
    )
    return replace(whole, features={e.name: _features(whole, e, cache, progress) for e in extractors})


def _conditions(source: str | Path) -> tuple[Path, dict[str, str]]:
    folder, colon, rest = str(source).rpartition(":")
    if Path(source).is_dir() or not colon or "=" not in rest:
        folder, rest = str(source), ""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder: give a folder of images, or FOLDER:column=value")
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"the condition {wrong[0]!r} of {folder} is not column=value: write FOLDER:view=PA,sex=female")
    return Path(folder), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _records(folder: Path, metadata: Path | None) -> dict[str, dict[str, str]]:
    """What the metadata says of each file, by its relative name; rows without a name are passed over."""
    tables = (
        [metadata] if metadata else [p for p in (folder / "metadata.csv", folder / "metadata.jsonl") if p.is_file()]
    )
    if len(tables) > 1:
        raise ValueError(f"{folder} holds both metadata.csv and metadata.jsonl: give one of them")
    try:
        rows = [record for table in tables for _, record in records(table, report=False)]
    except OSError as error:
        raise ValueError(f"the reports {metadata} cannot be read ({error.strerror}): give a metadata.csv") from None
    return {record["file_name"]: record for record in rows if isinstance(record, dict) and record.get("file_name")}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the images of a folder by their endings, and of DICOM files without one."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        if path.suffix.lower() in KINDS or (not path.suffix and _is_dicom(path)):
            yield name.as_posix(), path


def _is_dicom(path: Path) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def _read(
    chosen: Sequence[tuple[str, Path]], listed: Mapping[str, Mapping[str, str]], progress: Progress, title: str
) -> tuple[list[_One], list[tuple[str, str]], dict[str, Counter[str]]]:
    """Every file once: the readable, the refused with their reasons, and the counts."""
    found, refused = list[_One](), list[tuple[str, str]]()
    seen = {name: Counter[str]() for name in ("sizes", "depths", "formats")}
    for done, (name, path) in enumerate(chosen):
        progress(f"reading {title}", done, len(chosen))
        try:
            x, facts = grey(path)
        except ValueError as error:
            refused.append((name, str(error)))
            continue
        record = listed.get(name, {})
        given = _own(path)
        report = Report.parse(report_text(record) or str(given.get("report", "")))
        kind = report.modality or str(given.get("modality", ""))
        kind = kind or next((m.name for m in MODALITIES.values() if m.unit and m.unit == facts.get("unit")), "")
        group = patient_of(record) or facts.get("patient") or name
        traits = known_traits(report, record)
        found.append(_One(path, report.text, group, kind, known_findings(report), traits, sha256(path)))
        for column, value in (
            ("sizes", f"{x.shape[-1]} x {x.shape[-2]}"),
            ("depths", facts.get("depth", "as stored")),
            ("formats", facts["format"]),
        ):
            seen[column][value] += 1
    progress(f"reading {title}", len(chosen), len(chosen))
    return found, refused, seen


def _own(path: Path) -> Mapping[str, object]:
    """The provenance of a file of vlgen's; nothing for all others."""
    with suppress(ValueError):
        return images.info(path)
    return {}


def _features(whole: Collection, extractor: Extractor, cache: Path | None, progress: Progress) -> Tensor:
    """The features of all images, from the cache where these very images and this very extractor have been there."""
    from safetensors.torch import load, save

    digest = hashlib.sha256("".join([extractor.fingerprint, *whole.digests]).encode()).hexdigest()
    kept = cache / f"{digest[:32]}.safetensors" if cache else None
    if kept and kept.is_file():
        with suppress(Exception):  # a damaged cache is no reason to stop: the features are made again
            found = load(kept.read_bytes())["features"]
            if found.shape == (len(whole), extractor.dimension):
                return found
    result = torch.empty(len(whole), extractor.dimension)
    waiting: dict[int, list[int]] = {}  # images of one size go through the network together
    held: dict[int, Tensor] = {}
    title, done = f"{extractor.name} features of {whole.folder.name}", 0
    for index, path in enumerate(whole.files):
        x = grey(path)[0]
        held[index] = fit(x, min(x.shape[-2:]))
        batch = waiting.setdefault(held[index].shape[-1], [])
        batch.append(index)
        last = index + 1 == len(whole)
        for size in [s for s, rows in waiting.items() if len(rows) == 32 or last]:
            rows = waiting.pop(size)
            result[rows] = extractor.see(torch.stack([held.pop(row) for row in rows]))
            done += len(rows)
            progress(title, done, len(whole))
    if cache and kept:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        store(kept, save({"features": result}))
    return result
