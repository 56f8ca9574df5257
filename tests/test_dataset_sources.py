"""Where images come from: DICOM trees with a table of ids, files without endings, frames, and what is left out."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.uid import BasicTextSRStorage
from test_dicom import CANARY, saved, source

from vlgen.dataset import Dataset, load, windowed
from vlgen.modality import modality

CXR, CT = modality("cxr"), modality("ct")


def film(path: Path, level: int = 0, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.tile(np.arange(16, dtype=np.uint8) * 10 + level, (16, 1))
    return saved(source(array, **more), path)


def tree(root: Path) -> Path:
    """Two studies of one patient and one of another, in folders, among files that are no DICOM."""
    film(root / "x" / "IM0", 1, SOPInstanceUID="1.1", StudyInstanceUID="1", AccessionNumber="A1", PatientID="P1")
    film(root / "x" / "IM1", 2, SOPInstanceUID="1.2", StudyInstanceUID="1", AccessionNumber="A1", PatientID="P1")
    film(root / "y" / "z" / "IM0", 3, SOPInstanceUID="2.1", StudyInstanceUID="2", AccessionNumber="A2", PatientID="P1")
    film(root / "w.dcm", 4, SOPInstanceUID="3.1", StudyInstanceUID="3", AccessionNumber="A3", PatientID="P2")
    (root / "notes.txt").write_text("no image")
    (root / "broken").write_bytes(bytes(128) + b"DICM" + b"\1" * 40)
    return root


@pytest.mark.parametrize(
    ("table", "files"),
    [
        ("SOPInstanceUID,report\n2.1,Normal.\n1.2,Edema.\n9.9,Edema.\n", ["IM0", "IM1"]),
        ("study_instance_uid,report\n1,Normal.\n2,Edema.\n7,Edema.\n", ["IM0", "IM1", "IM0"]),
        ("accession,age,text\nA3,61,Normal.\nA1,40,Edema.\nA9,40,Edema.\n", ["w.dcm", "IM0", "IM1"]),
        ("patient_id,impression\nP1,Edema.\nP7,Normal.\nP2,Normal.\n", ["IM0", "IM1", "IM0", "w.dcm"]),
    ],
    ids=["sop", "study", "accession", "patient"],
)
def test_a_table_of_ids_finds_its_files(tmp_path: Path, table: str, files: list[str]) -> None:
    root = tree(tmp_path / "tree")
    (tmp_path / "reports.csv").write_text(table)
    data = Dataset(root, table=tmp_path / "reports.csv")
    assert [row.file.name for row in data] == files
    wrong = {line: reason for line, reason in data.refused}
    assert len(wrong) == 2 and wrong[0].startswith("not a readable DICOM file")
    assert [reason for line, reason in data.refused if line] == ["no DICOM file in the folder has this id"]
    assert data.unnamed == 4 - len(files)
    of = {row.file.relative_to(root).parts[0]: row.patient for row in data}
    assert all(of.values()) and of.get("x", "") == of.get("y", of.get("x", "")), "one patient in two studies"
    assert of.get("w.dcm") not in (of.get("x"), "P2")
    assert all(row.facts.get("age", "") in ("", "61", "40") for row in data)
    assert not any(name in str(sorted(row.facts)) for row in data for name in ("uid", "accession", "patient"))
    assert load(data.rows[0], CXR, 8).shape == (1, 8, 8)


def test_a_metadata_file_of_ids_needs_no_other_word(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "metadata.jsonl").write_text('{"accession_number": "A1", "findings": "Edema."}\n{"accession_number": ""}\n')
    data = Dataset(root)
    assert [row.text for row in data] == ["Findings: Edema."] * 2 and (2, "no id") in data.refused
    (root / "metadata.jsonl").write_text('{"colour": "A1", "findings": "Edema."}\n')
    with pytest.raises(ValueError, match="or a column of DICOM ids such as sop_instance_uid"):
        Dataset(root)


def test_the_column_of_reports_may_be_named(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text,Befund,age\na.png,other,Edema.,3\n")
    data = Dataset(tmp_path, report_column="befund")
    assert data.rows[0].text == "Edema." and data.rows[0].facts == {"age": "3"}
    assert Dataset(tmp_path).rows[0].text == "other"
    with pytest.raises(ValueError, match="has no column 'words' for the report"):
        Dataset(tmp_path, report_column="words")


def test_every_frame_is_a_row(tmp_path: Path) -> None:
    frames = np.stack([np.tile(np.arange(8, dtype=np.uint8) * k, (8, 1)) for k in (1, 10, 30)])
    saved(source(frames, NumberOfFrames=3), tmp_path / "loop.dcm")
    film(tmp_path / "one.dcm")
    (tmp_path / "metadata.csv").write_text("file_name,text\nloop.dcm,Cine.\none.dcm,Normal.\n")
    data = Dataset(tmp_path)
    assert [(row.line, row.index) for row in data] == [(2, 0), (2, 1), (2, 2), (3, None)]
    assert len({row.patient for row in data}) == 1 and CANARY not in repr(data) + str([row.patient for row in data])
    spread = [float(load(row, CXR, 8).max()) for row in data.rows[:3]]
    assert spread == sorted(spread) and spread[2] == pytest.approx(210 / 255 * 2 - 1, abs=1e-6)


def test_what_is_no_image_in_a_tree_is_passed_over(tmp_path: Path) -> None:
    """A report, a plan, a directory and a segmentation of the same study; a copy; a link that leads out of the tree."""
    root = tree(tmp_path / "tree")
    outside = film(tmp_path / "outside.dcm", 9, SOPInstanceUID="9.9", StudyInstanceUID="1", PatientID="P1")
    (root / "x" / "link.dcm").symlink_to(outside)
    (root / "y" / "up").symlink_to(tmp_path)
    shutil.copy(root / "x" / "IM0", root / "y" / "again")
    report = source(np.zeros((2, 2), np.uint8), modality="SR", SOPInstanceUID="5", StudyInstanceUID="1", PatientID="P1")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del report.Rows, report.PixelData
    saved(report, root / "SR0")
    report.StudyInstanceUID, report.SOPInstanceUID = "8", "6"
    saved(report, root / "SR1")
    film(root / "seg", 5, SOPInstanceUID="7", StudyInstanceUID="1", PatientID="P1", modality="SEG")
    rowless = source(np.zeros((2, 2), np.uint8), SOPInstanceUID="10", StudyInstanceUID="1", PatientID="P1")
    del rowless.Rows
    saved(rowless, root / "rowless")
    (root / "metadata.csv").write_text("study_instance_uid,report\n1,Edema.\n8,Edema.\n1,Edema.\n")
    data = Dataset(root)
    assert [(row.line, row.file.relative_to(root).as_posix()) for row in data] == [(2, "x/IM0"), (2, "x/IM1")]
    assert data.refused == (
        (0, "a copy of another DICOM file (1 in the folder)"),
        (0, "not a readable DICOM file (2 in the folder)"),  # broken, and the image that has no rows
        (3, "no image among the DICOM files has this id"),
        (4, "the same file as line 2"),
    )
    assert data.unnamed == 2


def test_a_real_tree_with_directories_and_three_kinds_of_image(tmp_path: Path) -> None:
    """The DICOM file set that pydicom tests with: two patients, radiographs, CT and MR, six DICOMDIR."""
    found = Path(pydicom.data.data_manager.DATA_ROOT) / "test_files" / "dicomdirtests"
    if not found.is_dir():
        pytest.skip("pydicom was installed without its test files")
    (tmp_path / "t.csv").write_text("patient_id,text\n98890234,Head.\n77654033,Neck.\n1,Neck.\n")
    data = Dataset(found, table=tmp_path / "t.csv")
    of = {line: [row for row in data if row.line == line] for line in (2, 3)}
    assert (len(of[2]), len(of[3])) == (24, 7) and [line for line, _ in data.refused] == [0, 4]
    assert data.refused[0][1] == "not a readable DICOM file (50 in the folder)"  # CT headers that were cut off
    assert len({row.patient for row in of[2]}) == len({row.patient for row in of[3]}) == 1
    assert not any(word in str([row.patient for row in data]) for word in ("98890234", "77654033"))
    read = Counter[str]()
    for row in data:
        for name in ("ct", "mri"):
            try:
                x = load(row, modality(name), 16, fit="letterbox")
            except ValueError as reason:
                assert "the file's values are in" in str(reason)
            else:
                assert x.shape == (1, 16, 16) and bool(torch.isfinite(x).all())
                read[name] += 1
    assert read == {"ct": 11, "mri": 20}
    tall = next(row for row in data if row.file.name == "6924")  # 0.545 x 0.597 mm, 16 x 16 pixels
    x = load(tall, windowed(CT, "-3000,3000"), 32, fit="letterbox")[0]
    assert int((x > x.min()).any(1).sum()) == round(32 * 0.545455 / 0.596847)


def test_dicom_is_told_by_its_content_wherever_it_is_listed(tmp_path: Path) -> None:
    """Without an ending its patient is still known, so that no split can part two files of one."""
    film(tmp_path / "IM0", PatientID="P1")
    film(tmp_path / "IM1.png", 1, PatientID="P1")
    film(tmp_path / "IM2", 2, PatientID="", PatientName="", StudyInstanceUID="1.2")
    film(tmp_path / "IM3", 3, PatientID=" ", PatientName="", StudyInstanceUID="1.2")
    film(tmp_path / "IM4", 4, PatientID="P1")
    table = "IM0,,A.\nIM1.png,,A.\nIM2,,A.\nIM3,,A.\nIM4,mine,A.\n"
    (tmp_path / "metadata.csv").write_text("file_name,patient,text\n" + table)
    patients = [row.patient for row in Dataset(tmp_path)]
    assert patients[0] == patients[1] != patients[2] == patients[3] and patients[4] == "mine" and all(patients)
    assert not any(name in str(patients) for name in ("P1", "1.2"))


def test_files_that_say_that_text_is_burned_in_are_left_out_unless_allowed(tmp_path: Path) -> None:
    film(tmp_path / "a.dcm", BurnedInAnnotation="YES")
    film(tmp_path / "b.dcm", BurnedInAnnotation="NO")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.dcm,Normal.\nb.dcm,Normal.\n")
    data = Dataset(tmp_path)
    assert [row.line for row in data] == [3]
    assert data.refused == ((2, "it says that text is burned into its pixels: blank it, or allow it (burned_in)"),)
    assert [row.line for row in Dataset(tmp_path, burned_in=True)] == [2, 3]


def test_a_file_that_claims_too_many_frames_makes_no_rows(tmp_path: Path) -> None:
    film(tmp_path / "a.dcm", NumberOfFrames=10_001)
    film(tmp_path / "b.dcm")
    film(tmp_path / "c.dcm", NumberOfFrames=3)  # and holds one
    (tmp_path / "metadata.csv").write_text("file_name,text\na.dcm,Normal.\nb.dcm,Normal.\nc.dcm,Normal.\n")
    data = Dataset(tmp_path)
    assert data.refused == ((2, "more than 10,000 frames, the most that are read"),) and len(data) == 4
    with pytest.raises(ValueError, match="line 4: not a readable DICOM file"):
        load(data.rows[3], CXR, 8)


def test_nothing_of_a_name_is_kept_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The name stands in every tag, chunk and file name that a format has, and in the table's columns of ids."""
    caplog.set_level("INFO")
    grey = Image.fromarray(np.tile(np.arange(0, 240, 15, dtype=np.uint8), (16, 1)))
    text, exif = PngInfo(), Image.Exif()
    text.add_text("Author", CANARY)
    exif[0x010E] = exif[0x9C9B] = CANARY
    grey.save(tmp_path / f"{CANARY}.png", pnginfo=text)
    grey.save(tmp_path / f"{CANARY}.jpg", exif=exif, comment=CANARY.encode())
    grey.save(tmp_path / f"{CANARY}.tif", tiffinfo={270: CANARY, 315: CANARY})
    film(tmp_path / f"{CANARY}.dcm", ImageComments=CANARY)
    nibabel = pytest.importorskip("nibabel")
    volume = nibabel.Nifti1Image(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), np.eye(4))
    volume.header["descrip"] = volume.header["intent_name"] = CANARY.encode()
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(volume, tmp_path / f"{CANARY}.nii.gz")
    (tmp_path / f"{CANARY}.npy").write_bytes(b"\x93NUMPY" + CANARY.encode() * 9)
    names = [f"{CANARY}.{end}" for end in ("png", "jpg", "tif", "dcm", "nii.gz", "npy", "gone")]
    lines = [f"{name},{CANARY},{CANARY},Normal." for name in names]
    (tmp_path / "metadata.csv").write_text("file_name,accession,patient id,text\n" + "\n".join(lines))
    data = Dataset(tmp_path, plane="axial")
    said = [str(data.refused), str([row.facts for row in data]), str([row.index for row in data])]
    for row in data.rows:
        try:
            x = load(row, modality("mri"), 8)
        except ValueError as reason:
            said.append(f"{reason} {reason.__cause__} {reason.__suppress_context__}")
        else:
            assert not hasattr(x, "facts")
    assert [line for line, _ in data.refused] == [8] and sum("line 7" in one for one in said) == 1
    assert not any("Quux" in one or "Zanzibar" in one for one in (*said, caplog.text))
