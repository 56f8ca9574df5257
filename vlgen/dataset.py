"""A folder of images and reports: its rows, what was refused and why, and patient-wise splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from torch import Tensor

from vlgen import dicom, images
from vlgen.modality import Modality, modality
from vlgen.tensors import counter

TEXTS = ("text", "report", "caption", "prompt")
SECTIONS = ("findings", "impression")


@dataclass(frozen=True)
class Row:
    """One image and its report. A printed row shows neither the report nor the patient.

    file     the image, inside the dataset's folder
    text     the report
    patient  what tells patients apart; "" where unknown
    source   the column `source`, or the folder's name
    facts    the remaining columns that are not empty
    line     line of the metadata file
    """

    file: Path
    text: str = field(repr=False)
    patient: str = field(repr=False)
    source: str
    facts: Mapping[str, str] = field(repr=False, hash=False)
    line: int


@dataclass(frozen=True)
class Dataset:
    """A folder with `metadata.csv` or `metadata.jsonl`: column `file_name`, and the report.

    The report is the first of the columns text, report, caption, prompt that exists, or else findings and impression.
    Columns `patient` and `source` are understood; all others are kept as facts. For DICOM without a
    patient column the patient is a salted hash of the file's patient ID.

    rows      what can be used
    refused   (line, reason) of what cannot: a file that is missing, listed twice or outside the folder; no text

    Raises ValueError where there is no metadata file, no such column, or no usable row.
    """

    folder: Path
    modality: str = field(default="", kw_only=True)
    rows: tuple[Row, ...] = field(init=False, repr=False)
    refused: tuple[tuple[int, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.modality:
            modality(self.modality)
        folder = Path(self.folder)
        found = [folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()]
        if len(found) != 1:
            number = "both" if found else "neither"
            raise ValueError(f"{folder} holds {number} of metadata.csv and metadata.jsonl: give one of them")
        rows, refused = _rows(folder, found[0])
        if not rows:
            reason = f"line {refused[0][0]}: {refused[0][1]}" if refused else "it lists nothing"
            raise ValueError(f"{found[0]} has no usable row ({reason})")
        for name, value in (("folder", folder), ("rows", tuple(rows)), ("refused", tuple(refused))):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def _rows(folder: Path, metadata: Path) -> tuple[list[Row], list[tuple[int, str]]]:
    root, seen = folder.resolve(), dict[Path, int]()
    rows, refused = list[Row](), list[tuple[int, str]]()
    for line, record in records(metadata):
        if isinstance(record, str):
            refused.append((line, record))
            continue
        name, text = record.get("file_name", ""), report_text(record)
        reason = _unusable(name, folder, root) or ("" if text else "no report text")
        file = folder / name
        if not reason and (first := seen.setdefault(file.resolve(), line)) != line:
            reason = f"the same file as line {first}"
        patient = record.get("patient", "")
        if not reason and not patient and file.suffix.lower() in (".dcm", ".dicom"):
            try:
                patient = dicom.facts(file)["patient"]
            except ValueError:
                reason = "not a readable DICOM file"
        if reason:
            refused.append((line, reason))
            continue
        known = {"file_name", "patient", "source", *TEXTS, *SECTIONS}
        facts = {key: value for key, value in record.items() if value and key not in known}
        rows.append(Row(file, text, patient, record.get("source") or root.name, facts, line))
    return rows, refused


def records(metadata: Path, *, report: bool = True) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, columns by lower-case name) of every row of a metadata.csv or .jsonl, or (line, why it cannot be used).

    report  whether a column that holds the report is needed, beside file_name

    Raises ValueError for a file that is no such table.
    """
    return (_csv if metadata.suffix == ".csv" else _jsonl)(metadata, report)


def report_text(record: Mapping[str, str]) -> str:
    """The report in a row: the first of the columns text, report, caption, prompt, or findings and impression."""
    for name in TEXTS:
        if name in record:
            return record[name]
    return " ".join(f"{name.capitalize()}: {record[name]}" for name in SECTIONS if record.get(name))


def texts(source: str | Path, count: int | None = None, seed: int = 0) -> list[str]:
    """The reports in a metadata file, or in the one of a folder: all in their order, or `count` of them by chance.

    By chance, each row comes once before any comes again. Raises ValueError where there is no report.
    """
    source = Path(source)
    found = (
        [source]
        if source.is_file()
        else [p for p in (source / "metadata.csv", source / "metadata.jsonl") if p.is_file()]
    )
    if len(found) != 1:
        raise ValueError(f"{source} is no table of reports: give a metadata.csv, or a folder with one")
    said = [report_text(record) for _, record in records(found[0]) if isinstance(record, dict)]
    said = [text for text in said if text]
    if not said:
        raise ValueError(f"{found[0]} has no row with a report: fill the column text")
    if count is None:
        return said
    order: list[int] = []
    while len(order) < count:
        turn = len(order) // len(said)
        order += sorted(range(len(said)), key=lambda row: counter("texts", seed, turn, row))
    return [said[row] for row in order[:count]]


def _unusable(name: str, folder: Path, root: Path) -> str:
    """Why this file name cannot be used, or nothing; the name itself is not quoted, it may hold a patient's."""
    if not name:
        return "no file name"
    if "\\" in name or "\0" in name:
        return "a file name with a backslash or a zero byte"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "a file name that leaves the folder"
    try:
        if not (folder / name).is_file():
            return "no such file"
        if not (folder / name).resolve().is_relative_to(root):
            return "a link that leaves the folder"
    except (OSError, RuntimeError):  # a name too long, a loop of links
        return "no such file"
    return ""


def _check_columns(names: Iterable[str], metadata: Path, report: bool) -> None:
    names = list(names)
    if "file_name" not in names:
        raise ValueError(f"{metadata} has no column file_name: name it first and separate columns by commas")
    if report and not set(names) & {*TEXTS, *SECTIONS}:
        raise ValueError(f"{metadata} has no report: name its column one of {', '.join((*TEXTS, *SECTIONS))}")


def _csv(metadata: Path, report: bool) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, record) of every row, or (line, reason)."""
    line = 1
    try:
        with open(metadata, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip().lower() for name in next(reader, [])]
            _check_columns(names, metadata, report)
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(names):
                    yield line, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
                elif cells:
                    yield line, f"{len(cells)} columns where the header has {len(names)}"
                line = reader.line_num + 1
    except UnicodeDecodeError:
        raise ValueError(f"{metadata} is not UTF-8 text: save it as UTF-8") from None
    except csv.Error:
        raise ValueError(f"{metadata} is not a table of comma-separated values: see the row at line {line}") from None


def _jsonl(metadata: Path, report: bool) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, record) of every row, or (line, reason)."""
    checked = False
    try:
        with open(metadata, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except (json.JSONDecodeError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    yield line, "not a JSON object"
                    continue
                record = {str(key).strip().lower(): _plain(value) for key, value in record.items()}
                if not checked:
                    _check_columns(record, metadata, report)
                    checked = True
                yield line, record
    except UnicodeDecodeError:
        raise ValueError(f"{metadata} is not UTF-8 text: save it as UTF-8") from None


def _plain(value: object) -> str:
    if value is None:
        return ""
    return "|".join(map(_plain, value)) if isinstance(value, list) else str(value).strip()


def split(rows: Iterable[Row], shares: Mapping[str, float] | None = None, seed: int = 0) -> dict[str, tuple[Row, ...]]:
    """Rows by the name of their part; all rows of a patient are in one part.

    The part follows from the seed and the patient alone (the file's stem where the patient is unknown), so that a
    row added later moves no other. Shares, by default 0.9 train and 0.1 test, are met in expectation
    over patients; a part of a small dataset may be empty.
    """
    shares = {"train": 0.9, "test": 0.1} if shares is None else shares
    if not shares or any(not share >= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)}: give parts of at least 0 that sum to 1")
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    last = [name for name, share in shares.items() if share > 0][-1]
    for row in rows:
        point = counter("split", seed, row.patient or row.file.stem) / 2**63
        for name, share in shares.items():
            if point < share or name == last:
                parts[name].append(row)
                break
            point -= share
    return {name: tuple(part) for name, part in parts.items()}


def load(row: Row, modality: Modality, size: int) -> Tensor:
    """The image of a row as a backbone sees it: (1, size, size) in [-1, 1], the central square.

    DICOM and NPY go through the window of the modality. PNG, JPEG and TIFF know no unit: their black and white are
    taken for the ends of that window. Raises ValueError where the file's unit is not the modality's.
    """
    x, facts = images.read_with_facts(row.file)
    if len(x) != 1:
        raise ValueError(f"line {row.line}: {len(x)} channels or frames; give one image per file")
    unit, pictorial = facts.get("unit", modality.unit), facts["format"] in ("PNG", "JPEG", "TIFF")
    x = images.fit(x, size)
    if unit == modality.unit:
        return modality.encode(x)
    if unit == "" and pictorial:
        return x * 2 - 1
    has, wants = unit or "relative units", modality.unit or "relative units"
    raise ValueError(f"line {row.line}: the file's values are in {has}, those of {modality.name} must be in {wants}")
