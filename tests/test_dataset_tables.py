"""Tables as spreadsheets, databases and careless hands leave them: odd rows are named by line and reason alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vlgen.dataset import Dataset, records
from vlgen.nifti import hashed

CANARY = "Zanzibar Quux"


def pictures(root: Path, count: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("L", (8, 6), 10 * k).save(root / f"{k}.png")
    return root


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_whatever_separates_columns_and_lines_the_rows_are_the_same(tmp_path: Path, mark: str, end: str) -> None:
    rows = [["File_Name", "age", "Text"], ["0.png", "61,5", "Edema; small, left."], ["1.png", "7", "No\teffusion."]]
    lines = [mark.join(f'"{cell}"' if k else cell for cell in row) for k, row in enumerate(rows)]
    root = pictures(tmp_path)
    (root / "metadata.csv").write_bytes(("\ufeff" + end.join(lines) + end).encode())
    data = Dataset(root)
    assert [(row.line, row.facts["age"], row.text) for row in data] == [
        (2, "61,5", "Edema; small, left."),
        (3, "7", "No\teffusion."),
    ]
    assert not data.refused


def test_bad_rows_are_left_out_with_their_line_and_the_next_ones_are_read(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    table = (
        f'\n;;\nfile_name;text;\n0.png;"Effusion,\nsmall.";\n;;\n1.png;"{CANARY}"x;\n2.png;Ede\0ma.;\n2.png;Edema.;\n'
        f"3.png;Normal.\n\n{CANARY};Edema.;\n3.png;{'Normal. ' * 20_000};\n3.png;Normal.;\n"
    )
    (root / "metadata.csv").write_text(table)
    data = Dataset(root)
    assert [(row.line, row.file.name) for row in data] == [(4, "0.png"), (9, "2.png"), (14, "3.png")]
    assert data.refused == (
        (7, "quotes that do not match, or a cell of more than 131,072 characters"),
        (8, "a zero byte"),
        (10, "2 columns where the header has 3"),
        (12, "no such file"),
        (13, "quotes that do not match, or a cell of more than 131,072 characters"),
    )


def test_an_object_may_leave_out_what_others_have(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    lines = [
        '{"file_name": "0.png", "patient": "P1"}',
        '{"text": "Edema.", "patient": "P2"}',
        '{"file_name": "1.png", "text": "Edema.", "extra": {"a": [1]}, "seen": true}',
        f'{{"file_name": "2.png", "text": "{CANARY}", "Text": "Edema."}}',
        json.dumps(CANARY),
        '{"file_name": "2.png", "text": "Ede\\ud800ma."}',
        '{"file_name": "2.png", "text": "Ede\\u0000ma."}',
        f'{{"file_name": "2.png", "text": {"9" * 5000}}}',
        '{"file_name": "2.png", "text": NaN}',
    ]
    (root / "metadata.jsonl").write_text("\ufeff" + "\n\n".join(lines) + "\n")
    data = Dataset(root)
    assert [(row.line, row.text) for row in data] == [(5, "Edema."), (17, "nan")]
    assert data.rows[0].facts == {"extra": '{"a": "1"}', "seen": "True"}
    assert data.refused == (
        (1, "no report text"),
        (3, "no file name"),  # and no DICOM of patient P2 is looked for
        (7, "one name twice in a JSON object"),
        (9, "not a JSON object"),
        (11, "a character that is none"),
        (13, "a zero byte"),
        (15, "not a JSON object"),
    )
    (root / "metadata.jsonl").write_bytes(b'{"file_name": "0.png", "text": "x"}\n{"text": "\xdcber"}\n')
    with pytest.raises(ValueError, match="not UTF-8 text at line 2: save it as UTF-8"):
        Dataset(root)


@pytest.mark.parametrize("column", ["patient", "patient_id", "PatientID", "Patient ID", "subject_id", "participant_id"])
def test_the_column_of_patients_has_many_names_and_is_no_fact(tmp_path: Path, column: str) -> None:
    root = pictures(tmp_path)
    table = f"file_name,{column},Accession Number,StudyInstanceUID,text\n0.png,{CANARY},{CANARY},{CANARY},Normal.\n"
    (root / "metadata.csv").write_text(table)
    row = Dataset(root).rows[0]
    assert row.patient == CANARY and not row.facts and CANARY not in repr(row)


def test_several_columns_may_be_the_report_and_one_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    (root / "metadata.csv").write_text("file_name,caption,findings,report,text\n0.png,A.,B.,C.,D.\n")
    with pytest.raises(ValueError, match="has the columns text and report and caption, and each may be the report"):
        Dataset(root)
    assert Dataset(root, report_column="Report").rows[0].text == "C."
    assert Dataset(root, report_column="findings").rows[0].text == "B."
    # The sections of a report beside the whole of it are no doubt.
    (root / "metadata.csv").write_text("file_name,findings,report\n0.png,B.,C.\n")
    assert Dataset(root).rows[0].text == "C."
    # Nobody asked for the report, so nobody needs to choose.
    (root / "metadata.csv").write_text("file_name,report,text\n0.png,C.,D.\n")
    assert [line for line, _ in records(root / "metadata.csv", report=False)] == [2]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../0.png", "leaves the folder"),
        ("a/../../0.png", "leaves the folder"),
        ("/etc/passwd", "leaves the folder"),
        ("a\0.png", "a zero byte"),
        ("C:\\0.png", "backslash"),
        ("out/0.png", "a link that leaves the folder"),
        ("https://example.org/0.png", "no such file"),
        (".", "no such file"),
        ("~/0.png", "no such file"),
        ("x/" * 3000, "no such file"),
        ("./0.png", "the same file as line 1"),
        ("in/0.png", "the same file as line 1"),
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str, reason: str) -> None:
    pictures(tmp_path)
    root = pictures(tmp_path / "set", 1)
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    rows = [{"file_name": "0.png", "text": "Normal."}, {"file_name": name, "text": CANARY}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Dataset(root)
    assert len(data) == 1 and len(data.refused) == 1
    line, said = data.refused[0]
    assert line == 2 and reason in said and CANARY not in said and "0.png" not in said


def test_a_table_that_is_none(tmp_path: Path) -> None:
    for name in ("absent.csv", "table.xlsx"):
        (tmp_path / "table.xlsx").write_bytes(b"PK\3\4")
        with pytest.raises(ValueError, match=r"give a .csv, .tsv or .jsonl"):
            Dataset(tmp_path, table=tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="no column file_name"):
        Dataset(tmp_path)


def test_volumes_of_one_subject_are_of_one_patient() -> None:
    same = [Path("sub-01/anat/sub-01_T1w.nii.gz"), Path("sub-01/ses-2/anat/x_T2w.nii"), Path("deep/sub-01_flair.nii")]
    assert len({hashed(path) for path in same}) == 1
    others = [Path("sub-02/anat/sub-02_T1w.nii.gz"), Path("sub-011/a.nii"), Path("a/x.nii"), Path("submarine-01.nii")]
    assert len({hashed(path) for path in (*same, *others)}) == 5
    assert all(len(hashed(path)) == 16 for path in same)
