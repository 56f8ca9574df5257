import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlgen import images
from vlgen.dataset import Dataset, Row, load, split
from vlgen.modality import MODALITIES

CANARY = "Zanzibar Quux"


def folder(tmp_path: Path, table: str, *names: str) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for k, name in enumerate(names):
        Image.new("L", (8, 6), 10 * k).save(root / name)
    (root / "metadata.csv").write_text(table, encoding="utf-8")
    return root


def test_csv(tmp_path: Path) -> None:
    table = (
        "\ufefffile_name, Source,patient,age,text\n"
        "images/a.png,NIH,7,,No effusion.\n\n"
        'images/b.png,,8,61,"Effusion, left,\nsmall. Überblähung."\n'
        "images/c.png,,8,62,Normal.\n"
    )
    data = Dataset(folder(tmp_path, table, "images/a.png", "images/b.png", "images/c.png"), modality="cxr")
    assert not data.refused and len(data) == 3 and [row.line for row in data] == [2, 4, 6]
    assert [row.source for row in data] == ["NIH", "set", "set"]
    assert data.rows[1].text == "Effusion, left,\nsmall. Überblähung." and data.rows[1].facts == {"age": "61"}
    assert data.rows[0].facts == {} and data.rows[0].patient == "7"


@pytest.mark.parametrize("column", ["text", "report", "caption", "prompt"])
def test_report_columns(tmp_path: Path, column: str) -> None:
    data = Dataset(folder(tmp_path, f"file_name,{column}\nimages/a.png,Normal.\n", "images/a.png"))
    assert data.rows[0].text == "Normal."


def test_sections_are_joined(tmp_path: Path) -> None:
    table = "file_name,impression,findings\nimages/a.png,Edema.,Kerley lines.\nimages/b.png,Normal.,\n"
    data = Dataset(folder(tmp_path, table, "images/a.png", "images/b.png"))
    assert [row.text for row in data] == ["Findings: Kerley lines. Impression: Edema.", "Impression: Normal."]


def test_bad_rows_are_refused_with_line_and_reason(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    lines = {
        "images/a.png,fine": "",
        "images/none.png,t": "no such file",
        "../outside.png,t": "leaves the folder",
        f"{tmp_path}/outside.png,t": "leaves the folder",
        "images/../images/a.png,t": "leaves the folder",
        "images/a.png,t": "the same file as line 2",
        "images/inner.png,t": "the same file as line 2",
        "images/link.png,t": "a link that leaves the folder",
        "images/loop.png,t": "no such file",
        "images/b.png,  ": "no report text",
        ",t": "no file name",
        "images\\b.png,t": "backslash",
        "images,t": "no such file",
        "images/b.png": "1 columns where the header has 2",
        "images/b.png,t,u": "3 columns",
        f"{'a' * 300}.png,t": "no such file",
        "images/bad.dcm,t": "not a readable DICOM",
        "images/b.png,fine": "",
    }
    root = folder(tmp_path, "file_name,text\n" + "\n".join(lines), "images/a.png", "images/b.png")
    (root / "images/link.png").symlink_to(tmp_path / "outside.png")
    (root / "images/inner.png").symlink_to(root / "images/a.png")
    (root / "images/loop.png").symlink_to(root / "images/loop.png")
    (root / "images/bad.dcm").write_bytes(CANARY.encode())
    data = Dataset(root)
    assert [row.line for row in data] == [2, 19]
    want = [(line, reason) for line, reason in enumerate(lines.values(), 2) if reason]
    assert [line for line, _ in data.refused] == [line for line, _ in want]
    for (_, got), (line, reason) in zip(data.refused, want, strict=True):
        assert reason in got, line


def test_jsonl(tmp_path: Path) -> None:
    root = folder(tmp_path, "", "images/a.png", "images/b.png")
    (root / "metadata.csv").unlink()
    rows = [{"file_name": "images/a.png", "text": "A.", "age": 61, "labels": ["x", "y"], "sex": None}, "loose"]
    text = "\n".join(map(json.dumps, rows)) + '\n\n{"file_name": "images/b.png", "text"\n' + "[" * 50_000 + "\n"
    (root / "metadata.jsonl").write_text(text)
    data = Dataset(root)
    assert data.rows[0].facts == {"age": "61", "labels": "x|y"} and data.rows[0].line == 1
    assert data.refused == tuple((line, "not a JSON object") for line in (2, 4, 5))
    (root / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ValueError, match="holds both"):
        Dataset(root)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"file_name:text\na.png:x\n", "separate columns by commas"),
        (b"file_name,text,report\na.png,x,y\n", "the columns text and report, and each may be"),
        (b"file_name,text,Text\na.png,x,y\n", "the column 'text' twice"),
        (b"file_name,label\na.png,x\n", "has no report"),
        (b"", "no column file_name"),
        (b"file_name,text\n", "lists nothing"),
        (b"file_name,text\na.png,x\n", "line 2: no such file"),
        (b"file_name,text\na.png,x\na.png,\xdcber\n", "not UTF-8 text at line 3"),
        ("file_name,text\na.png,x\n".encode("utf-16"), "not UTF-8 text at line 1"),
        (b'file_name,text\na.png,"' + b"x" * 200_000 + b'"\n', "line 2: quotes that do not match, or a cell of more"),
        (b'file_name,text\na.png,"x"y\n', "line 2: quotes that do not match"),
        (b'file_name,text\na.png,x\na.png,"x\na.png,x\n', "see the row at line 3, whose quotes do not match"),
        (b'file_name,"text\na.png,x\n', "see the row at line 1"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, table: bytes, reason: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(table)
    with pytest.raises(ValueError, match=reason) as caught:
        Dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_metadata_and_no_such_modality(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds neither"):
        Dataset(tmp_path)
    with pytest.raises(ValueError, match="unknown modality"):
        Dataset(tmp_path, modality="xray")


def test_printed_rows_show_no_report_and_no_patient(tmp_path: Path) -> None:
    root = folder(tmp_path, f"file_name,patient,text,name\nimages/a.png,{CANARY},{CANARY},{CANARY}\n", "images/a.png")
    data = Dataset(root)
    assert CANARY not in repr(data) + repr(data.rows) and hash(data.rows[0]) == hash(Dataset(root).rows[0])


# --- splits --------------------------------------------------------------------------------------------------------


def rows(patients: list[str]) -> list[Row]:
    return [Row(Path(f"{k}.png"), "t", patient, "s", {}, k) for k, patient in enumerate(patients)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["", "1", "2", "3", "p 4", "é"]), max_size=40),
    st.integers(0, 3),
    st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    st.randoms(use_true_random=False),
)
def test_split_laws(patients: list[str], seed: int, weights: list[int], random: object) -> None:
    shares = {f"part{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    given_rows = rows(patients)
    parts = split(given_rows, shares, seed)
    where = {row.line: name for name, part in parts.items() for row in part}
    assert sorted(where) == [row.line for row in given_rows]  # every row once
    for patient in set(patients) - {""}:  # no patient on two sides
        assert len({where[row.line] for row in given_rows if row.patient == patient}) == 1
    assert all(shares[name] > 0 for name in where.values())
    # The order does not matter, and taking rows away moves no other.
    some = [row for row in given_rows if row.line % 2]
    random.shuffle(some)  # type: ignore[attr-defined]
    for name, part in split(some, shares, seed).items():
        assert all(where[row.line] == name for row in part)


def test_split_shares_and_seeds() -> None:
    many = rows([str(k) for k in range(4000)])
    parts = split(many, {"train": 0.8, "val": 0.1, "test": 0.1})
    # Four standard deviations of a binomial of 4000.
    assert abs(len(parts["train"]) - 3200) < 4 * (4000 * 0.8 * 0.2) ** 0.5
    assert abs(len(parts["val"]) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    assert split(many)["test"] != split(many, seed=1)["test"] and list(split(many)) == ["train", "test"]
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="sum to 1"):
            split(many, shares)


# --- loading -------------------------------------------------------------------------------------------------------


def test_load_pictures_and_units(tmp_path: Path) -> None:
    ct, cxr, pet = MODALITIES["ct"], MODALITIES["cxr"], MODALITIES["pet"]

    def row(path: Path) -> Row:
        return Row(path, "t", "", "s", {}, 3)

    levels = np.array([[0, 51], [204, 255]], np.uint8)
    Image.fromarray(levels).save(tmp_path / "x.png")
    want = torch.from_numpy(levels / 255 * 2 - 1).float()[None]
    for m in (cxr, ct):  # a picture's black and white are the ends of the window
        assert torch.allclose(load(row(tmp_path / "x.png"), m, 2), want, atol=1e-6)
    np.save(tmp_path / "x.npy", np.array([[-2000, -1000], [-250, 500]], np.int16))
    assert load(row(tmp_path / "x.npy"), ct, 2).flatten().tolist() == [-1, -1, 0, 1]
    assert load(row(tmp_path / "x.npy"), ct, 9).shape == (1, 9, 9)

    hounsfield = images.Images(torch.tensor([[[[-1000.0, -250], [0, 500]]]]), ct, ({"seed": 1},))
    for format in images.ENDINGS:
        path = images.write(hounsfield, tmp_path / format, format=format)[0]
        assert load(row(path), ct, 2).flatten().tolist() == pytest.approx([-1, 0, 1 / 3, 1], abs=1e-3)
        with pytest.raises(ValueError, match="line 3: the file's values are in HU"):
            load(row(path), cxr, 2)
    relative = images.Images(torch.rand(1, 1, 4, 4), cxr, ({"seed": 1},))
    with pytest.raises(ValueError, match="relative units, those of pet must be in SUV"):
        load(row(images.write(relative, tmp_path, format="dicom")[0]), pet, 4)
    np.save(tmp_path / "volume.npy", np.zeros((5, 4, 4), np.float32))
    with pytest.raises(ValueError, match="5 channels or frames"):
        load(row(tmp_path / "volume.npy"), ct, 4)


FOUND = [up / "shared" / "data" for up in Path(__file__).resolve().parents[1:3] if (up / "shared" / "data").is_dir()]


@pytest.mark.skipif(not FOUND, reason="the open data sets are not here")
@pytest.mark.parametrize(
    ("name", "modality", "count"),
    [
        ("cxr256", "cxr", 3749),
        ("cxr64", "cxr", 1000),
        ("brain_mri224", "mri", 5708),
        ("breast_us256", "us", 660),
        ("chest_ct", "ct", 78),
    ],
)
def test_open_data(name: str, modality: str, count: int) -> None:
    data = Dataset(FOUND[0] / name, modality=modality)
    assert len(data) == count and not data.refused
    for row in data.rows[:: max(1, count // 10)]:
        x = load(row, MODALITIES[modality], 64)
        assert x.shape == (1, 64, 64) and x.min() >= -1 and x.max() <= 1 and x.std() > 0.05


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is no folder"):
        Dataset(tmp_path / "nowhere")
