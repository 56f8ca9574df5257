"""Tables of images and reports: metadata.csv and .jsonl, row by row, each with the line it stands on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vlgen.files import Refused
from vlgen.tensors import counter

DELIMITERS = ",;\t"  # what spreadsheets write where a comma is the decimal sign, and what they copy
TEXTS = ("text", "report", "caption", "prompt")
SECTIONS = ("findings", "impression")

# What a table may name a DICOM file by, the most exact first: the attribute, and the columns that mean it as `bare` has
# them.
KEYS: Mapping[str, tuple[str, ...]] = {
    "SOPInstanceUID": ("sopinstanceuid", "sopuid", "sop"),
    "AccessionNumber": ("accessionnumber", "accession"),
    "StudyInstanceUID": ("studyinstanceuid", "studyuid", "study"),
    "PatientID": ("patientid", "patient", "subjectid", "subject"),
}
PATIENTS = ("patient", "patientid", "subject", "subjectid", "participant", "participantid")
IDS = {*(name for names in KEYS.values() for name in names), *PATIENTS}


def bare(name: str) -> str:
    """A column's name in lower case, letters and digits alone: "Patient ID" and patient_id are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def key_column(names: Iterable[str]) -> tuple[str, str]:
    """(DICOM attribute, column) by which a table without file names knows its images; ("", "") where there is none."""
    there = {bare(name): name for name in names}
    return next(((key, there[name]) for key, columns in KEYS.items() for name in columns if name in there), ("", ""))


def patient_of(record: Mapping[str, str]) -> str:
    """What the first column that means the patient says; "" where there is none, or nothing in it."""
    there = {bare(name): value for name, value in record.items()}
    return next((there[name] for name in PATIENTS if name in there), "")


def records(
    metadata: Path, *, report: bool = True, report_column: str = "", keyed: bool = False
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, columns by lower-case name) of every row of a metadata.csv or .jsonl, or (line, why it cannot be used).

    A CSV is separated by commas, semicolons or tabs, as its header shows; empty rows and columns without a name are
    passed over. Every row has every column: what a JSON object leaves out is empty.

    report         whether a column that holds the report is needed, beside file_name
    report_column  that column, where it has none of the usual names
    keyed          whether a column of DICOM ids (KEYS) may stand in for file_name

    Raises ValueError for a file that is no such table, and where several columns might be the report.
    """
    check = _Check(metadata, report, report_column.strip().lower(), keyed)
    return (_jsonl if metadata.suffix.lower() in (".jsonl", ".ndjson") else _csv)(metadata, check)


def report_text(record: Mapping[str, str], column: str = "") -> str:
    """The report in a row: that column, or the first of text, report, caption, prompt, or findings and impression."""
    if column:
        return record.get(column.strip().lower(), "")
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


class _Check:
    """Whether a table's columns suffice; raises ValueError in one sentence where they do not."""

    def __init__(self, metadata: Path, report: bool, column: str, keyed: bool) -> None:
        self.metadata, self.report, self.column, self.keyed = metadata, report, column, keyed

    def __call__(self, names: Iterable[str]) -> None:
        names = [name for name in names if name]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{self.metadata} has the column {twice[0]!r} twice: rename or remove one")
        if "file_name" not in names and not (self.keyed and key_column(names)[0]):
            ids = ", or a column of DICOM ids such as sop_instance_uid, accession or patient_id" * self.keyed
            raise ValueError(
                f"{self.metadata} has no column file_name: name it first{ids}, and separate columns by commas"
            )
        if self.column and self.column not in names:
            raise ValueError(f"{self.metadata} has no column {self.column!r} for the report: name one that it has")
        if not self.report or self.column:
            return
        whole = [name for name in TEXTS if name in names]
        if not whole and not set(names) & set(SECTIONS):
            raise ValueError(
                f"{self.metadata} has no report: name its column one of {', '.join((*TEXTS, *SECTIONS))}, or say "
                "which it is (--report-column)"
            )
        if len(whole) > 1:
            raise ValueError(
                f"{self.metadata} has the columns {' and '.join(whole)}, and each may be the report: say which it is "
                "(--report-column)"
            )


def _csv(metadata: Path, check: _Check) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, record) of every row, or (line, reason)."""
    with _decoding(metadata), open(metadata, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=_delimiter(metadata, check))
        names: list[str] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = [cell.strip() for cell in next(reader)]
            except StopIteration:
                break
            except csv.Error:
                if reader.line_num > line or not names:  # who knows how many rows the open quote has swallowed
                    raise ValueError(
                        f"{metadata} is no table: see the row at line {line}, whose quotes do not match"
                    ) from None
                yield line, "quotes that do not match, or a cell of more than 131,072 characters"
                continue
            if not any(cells):
                continue
            if not names:
                names = [name.lower() for name in cells]
                check(names)
            elif len(cells) != len(names):
                yield line, f"{len(cells)} columns where the header has {len(names)}"
            else:
                yield line, _plain({name: cell for name, cell in zip(names, cells, strict=True) if name})
        if not names:
            check(names)


def _delimiter(metadata: Path, check: _Check) -> str:
    """What separates the columns of a table: the first of DELIMITERS by which its header names files or ids."""
    with open(metadata, encoding="utf-8-sig", newline="") as file:
        head = next((line for line in iter(lambda: file.readline(1 << 16), "") if line.strip(' ,;\t\r\n"')), "")
    for delimiter in DELIMITERS:
        try:
            names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if "file_name" in names or (check.keyed and key_column(names)[0]):
            return delimiter
    return DELIMITERS[0]


def _jsonl(metadata: Path, check: _Check) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, record) of every row, or (line, reason). It is read twice: an object may leave out what others have."""
    with _decoding(metadata):
        names = list(
            dict.fromkeys(name for _, record in _objects(metadata) if isinstance(record, dict) for name in record)
        )
        check(names)
        for line, record in _objects(metadata):
            yield line, record if isinstance(record, str) else _plain({name: record.get(name, "") for name in names})


def _objects(metadata: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, columns by lower-case name) of every line that is not empty, or (line, reason)."""
    with open(metadata, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text, object_pairs_hook=_once)
            except Refused as reason:
                yield line, str(reason)
                continue
            except (ValueError, RecursionError):
                record = None
            yield line, record if isinstance(record, dict) else "not a JSON object"


def _once(pairs: list[tuple[str, object]]) -> dict[str, str]:
    found = {name.strip().lower(): _cell(value) for name, value in pairs}
    if len(found) != len(pairs):
        raise Refused("one name twice in a JSON object")
    return found


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value)
    return "|".join(map(_cell, value)) if isinstance(value, list) else str(value).strip()


def _plain(record: dict[str, str]) -> dict[str, str] | str:
    """The record, or why it is no text."""
    said = "".join(record.values())
    if "\0" in said:
        return "a zero byte"
    try:
        said.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no file or hash can hold
        return "a character that is none"
    return record


@contextmanager
def _decoding(metadata: Path) -> Iterator[None]:
    """Turns a wrong encoding into one sentence with its line."""
    try:
        yield
    except UnicodeDecodeError:
        with open(metadata, "rb") as file:
            line = next((number for number, text in enumerate(file, 1) if not _is_utf8(text)), 1)
        raise ValueError(f"{metadata} is not UTF-8 text at line {line}: save it as UTF-8") from None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
