"""Rows: the images and reports of a folder, what was refused and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vlgen import dicom, nifti
from vlgen.dataset.tables import IDS, SECTIONS, TEXTS, bare, key_column, patient_of, records, report_text
from vlgen.dataset.tree import Tree
from vlgen.files import Refused
from vlgen.modality import modality

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
DICOM, VOLUMES = (".dcm", ".dicom"), (".nii", ".nii.gz")


@dataclass(frozen=True)
class Row:
    """One image and its report. A printed row shows neither the report nor the patient.

    file     the image, inside the dataset's folder
    text     the report
    patient  what tells patients apart; "" where unknown
    source   the column `source`, or the folder's name
    facts    the remaining columns that are not empty
    line     line of the metadata file
    index    frame or slice of a file that holds several; None where it holds one image
    plane    of the slice of a volume: axial, coronal or sagittal
    """

    file: Path
    text: str = field(repr=False)
    patient: str = field(repr=False)
    source: str
    facts: Mapping[str, str] = field(repr=False, hash=False)
    line: int
    index: int | None = None
    plane: str = ""


@dataclass(frozen=True)
class Dataset:
    """A folder with `metadata.csv` or `metadata.jsonl`: column `file_name`, anywhere among the others, and the report.

    table          another table than those two
    report_column  the column of the report; if not given, the one of text, report, caption, prompt that exists (several
                   are an error), or else findings and impression
    plane          axial, coronal or sagittal: the slices to take of NIfTI volumes (.nii, .nii.gz) whose row does not
                   say it in a column `plane`. All slices that show something are taken, or the one in a column `slice`
    burned_in      take DICOM files, too, that say that text is burned into their pixels

    In place of file_name there may be a column of SOP, study, accession or patient ids: then the table is of the
    DICOM files anywhere in the folder, and a row is of all files with that id. Columns `patient` (or patient_id,
    subject_id) and `source` are understood; all others are kept as facts, but for ids. For DICOM without a patient
    column the patient is a salted hash of the file's patient ID, for volumes one of the BIDS subject or the name of
    the file. Of a multi-frame DICOM each frame is a row. Of pictures and arrays only that they are there is looked at:
    `load` reads them.

    rows      what can be used
    refused   (line, reason) of what cannot: a file that is missing, listed twice or outside the folder; no text
    unnamed   DICOM images in the folder that no row is of, where the table has ids

    Raises ValueError where there is no metadata file, no such column, or no usable row.
    """

    folder: Path
    modality: str = field(default="", kw_only=True)
    table: Path | None = field(default=None, kw_only=True)
    report_column: str = field(default="", kw_only=True)
    plane: str = field(default="", kw_only=True)
    burned_in: bool = field(default=False, kw_only=True)
    rows: tuple[Row, ...] = field(init=False, repr=False)
    refused: tuple[tuple[int, str], ...] = field(init=False, repr=False)
    unnamed: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.modality:
            modality(self.modality)
        if self.plane and self.plane not in nifti.PLANES:
            raise ValueError(f"plane {self.plane!r}: give one of {', '.join(nifti.PLANES)}")
        folder = Path(self.folder)
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give one that holds images and a metadata.csv or .jsonl")
        found = [folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()]
        if self.table is not None:
            found = [Path(self.table)]
            if not found[0].is_file() or found[0].suffix.lower() not in TABLES:
                raise ValueError(f"the table {self.table} is no file that is read: give a .csv, .tsv or .jsonl")
        if len(found) != 1:
            number = "both" if found else "neither"
            raise ValueError(f"{folder} holds {number} of metadata.csv and metadata.jsonl: give one of them")
        rows, refused, unnamed = _Reader(self, folder, found[0]).all()
        if not rows:
            reason = f"line {refused[0][0]}: {refused[0][1]}" if refused else "it lists nothing"
            raise ValueError(f"{found[0]} has no usable row ({reason})")
        refused.sort(key=lambda pair: pair[0])
        for name, value in (("folder", folder), ("rows", tuple(rows)), ("refused", tuple(refused))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "unnamed", unnamed)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


class _Reader:
    """Reads a table once, row by row, with the files that it speaks of."""

    def __init__(self, asked: Dataset, folder: Path, metadata: Path) -> None:
        self.asked, self.folder, self.metadata = asked, folder, metadata
        self.root = folder.resolve()
        self.seen: dict[tuple[Path, int | None, str], int] = {}

    def all(self) -> tuple[list[Row], list[tuple[int, str]], int]:
        rows, named = list[Row](), set[Path]()
        refused: dict[tuple[int, str], None] = {}  # a line with many files says each reason once
        tree: Tree | None = None
        for line, record in records(self.metadata, report_column=self.asked.report_column, keyed=True):
            if isinstance(record, str):
                refused[line, record] = None
                continue
            key, name = ("", "") if "file_name" in record else key_column(record)
            if key and tree is None:
                tree = Tree.read(self.folder, key)
                for reason, count in tree.refused:
                    refused[0, f"{reason} ({count} in the folder)"] = None
            try:
                files = tree.files(record[name]) if tree else [self._file(record.get("file_name", ""))]
            except Refused as reason:
                refused[line, str(reason)] = None
                continue
            named |= set(files)
            for file in files:
                try:
                    rows += self._rows(file, line, record, "" if key == "PatientID" else patient_of(record))
                except Refused as reason:  # without the file's name, which may hold a patient's
                    refused[line, str(reason).removeprefix(f"{file.name}: ")] = None
        return rows, list(refused), len(tree.left(named)) if tree else 0

    def _file(self, name: str) -> Path:
        if reason := _unusable(name, self.folder, self.root):
            raise Refused(reason)
        return self.folder / name

    def _rows(self, file: Path, line: int, record: Mapping[str, str], patient: str) -> list[Row]:
        """The rows that a line makes of a file: one, or one for each frame or slice."""
        text = report_text(record, self.asked.report_column)
        if not text:
            raise Refused("no report text")
        volume, plane = file.name.lower().endswith(VOLUMES), ""
        numbers: list[int] | list[None] = [None]
        if volume:
            plane = record.get("plane", "").lower() or self.asked.plane
            numbers = nifti.slices(file, plane, record.get("slice", ""))
            patient = patient or nifti.hashed(file.relative_to(self.folder))
        elif file.suffix.lower() in DICOM or dicom.is_dicom(file):
            known, count = dicom.facts(file), dicom.frames(file)
            if known.get("BurnedInAnnotation", "").upper() == "YES" and not self.asked.burned_in:
                raise Refused("it says that text is burned into its pixels: blank it, or allow it (burned_in)")
            patient = patient or known["patient"]
            numbers = list(range(count)) if count > 1 else numbers
        keys = [(file.resolve(), number, plane) for number in numbers]
        if first := next((self.seen[key] for key in keys if key in self.seen), 0):
            raise Refused(f"the same {'slice' if volume else 'file'} as line {first}")
        self.seen |= dict.fromkeys(keys, line)
        told = {"file_name", "source", self.asked.report_column.strip().lower(), *TEXTS, *SECTIONS}
        facts = {key: value for key, value in record.items() if value and key not in told and bare(key) not in IDS}
        row = Row(file, text, patient, record.get("source") or self.root.name, facts, line)
        return [replace(row, index=number, plane=plane) for number in numbers]


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
