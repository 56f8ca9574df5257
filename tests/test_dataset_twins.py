"""Duplicates as people have them, found and named by their lines; and splits that no patient is on both sides of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vlgen.dataset import Dataset, Row, grouped, load, stated
from vlgen.dataset.twins import ALIKE, CLUSTER, COPY, clusters, pairs, thumbnail
from vlgen.modality import modality

CXR = modality("cxr")
FOUND = [up / "shared" / "data" for up in Path(__file__).resolve().parents[1:3] if (up / "shared" / "data").is_dir()]


def thumbs(rows: tuple[Row, ...], size: int = 64) -> torch.Tensor:
    return torch.stack([thumbnail(load(row, CXR, size)) for row in rows])


def listed(root: Path, columns: str, lines: list[str]) -> Dataset:
    (root / "metadata.csv").write_text(columns + "\n" + "\n".join(lines) + "\n")
    return Dataset(root)


def copies(image: Image.Image) -> dict[str, Image.Image]:
    """A picture as somebody else might have saved it."""
    grey = np.asarray(image, np.float64)
    wide = Image.fromarray((grey * 257).astype(np.uint16))
    return {
        "again.png": image,
        "small.png": image.resize((image.width // 2, image.height // 2)),
        "large.tif": image.resize((image.width * 2, image.height * 2)),
        "poor.jpg": image,
        "pale.png": Image.fromarray((grey * 0.7 + 30).astype(np.uint8)),
        "deep.png": wide,
        "color.png": ImageOps.colorize(image, "black", "white"),
    }


def scene(seed: int, side: int = 96) -> Image.Image:
    """Smooth blobs, unlike those of any other seed."""
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x = torch.nn.functional.interpolate(noise, (side, side), mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
    return Image.fromarray((x * 255).byte().numpy())


def test_copies_are_found_however_they_were_saved_and_named_by_their_lines(tmp_path: Path) -> None:
    for k in range(3):
        scene(k).save(tmp_path / f"{k}.png")
    saved = copies(scene(1))
    for name, image in saved.items():
        image.save(tmp_path / name, **({"quality": 30} if name == "poor.jpg" else {}))
    data = listed(tmp_path, "file_name,text", [f"{name},T." for name in ("0.png", "1.png", "2.png", *saved)])
    found = [(data.rows[i].line, data.rows[j].line) for i, j in pairs(thumbs(data.rows), COPY)]
    same = [3, *range(5, 5 + len(saved))]
    assert found == [(i, j) for i in same for j in same if i < j]
    assert clusters(thumbs(data.rows), COPY) == [0, 1, 2, *[1] * len(saved)]


def test_a_chain_of_alike_pairs_is_one_cluster() -> None:
    """a ~ b ~ c, though a and c are unlike; and pictures of one value are like nothing."""
    angle = torch.tensor([0.0, 0.2, 0.4, 3.0])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert float(x[0] @ x[2]) < ALIKE < float(x[0] @ x[1])
    assert clusters(x) == [0, 0, 0, 3] and list(pairs(x, ALIKE)) == [(0, 1), (1, 2)]
    assert clusters(x[[2, 0, 3, 1]]) == [0, 0, 2, 0]
    flat = torch.stack([thumbnail(torch.full((1, 32, 32), level)) for level in (0.0, 0.5, 0.5)])
    assert clusters(flat) == [0, 1, 2]


@pytest.mark.skipif(not FOUND, reason="the open data sets are not here")
def test_copies_among_real_radiographs_are_found_and_no_others() -> None:
    """NIH patient 2658 has one film under two names; its neighbors, other films of other patients, are no copies."""
    rows = [row for row in Dataset(FOUND[0] / "cxr256") if row.source.startswith("NIH")]
    at = next(k for k, row in enumerate(rows) if row.file.name == "nih_00002658_001.jpg")
    some = (*rows[at - 60 : at + 60], *rows[:60])
    found = [{some[i].file.name, some[j].file.name} for i, j in pairs(thumbs(some), COPY)]
    assert found == [{"nih_00002658_001.jpg", "nih_00002658_002.jpg"}]


@pytest.mark.skipif(not FOUND, reason="the open data sets are not here")
def test_real_films_saved_again_are_found(tmp_path: Path) -> None:
    originals = Dataset(FOUND[0] / "cxr256").rows[100:2000:380]
    lines = []
    for k, row in enumerate(originals):
        image = Image.open(row.file).convert("L")
        for name, copy in copies(image).items():
            copy.save(tmp_path / f"{k}-{name}", **({"quality": 30} if name == "poor.jpg" else {}))
            lines.append(f"{k}-{name},T.")
    data = listed(tmp_path, "file_name,text", lines)
    each = len(lines) // len(originals)
    alike = clusters(torch.cat([thumbs(originals), thumbs(data.rows)]), COPY)
    assert alike[: len(originals)] == list(range(len(originals)))
    # Of 60 films all were found: the least alike of their copies, at JPEG quality 30, correlated by 0.9995.
    assert alike[len(originals) :] == [k for k in range(len(originals)) for _ in range(each)]


# --- splits that the table states ----------------------------------------------------------------------------------


def row(line: int, side: str, patient: str = "", file: str = "") -> Row:
    return Row(Path(file or f"{line}.png"), "t", patient, "s", {"split": side}, line)


def test_a_patient_on_both_sides_of_a_stated_split_is_an_error(tmp_path: Path) -> None:
    parts = stated(
        [row(2, "Train", "a"), row(3, "training", "a"), row(4, "VAL", "b"), row(5, "held-out"), row(6, "train")]
    )
    assert {name: [one.line for one in part] for name, part in parts.items()} == {"train": [2, 3, 6], "test": [4, 5]}
    with pytest.raises(ValueError, match="lines 2 and 4 are of one patient on both sides of the split"):
        stated([row(2, "train", "a"), row(3, "train", "b"), row(4, "test", "a")])
    with pytest.raises(ValueError, match="lines 2 and 3 are of one patient"):  # two frames of one file
        stated([row(2, "train", file="x.dcm"), row(3, "test", file="x.dcm")])
    for side in ("", "both", "trian"):
        with pytest.raises(ValueError, match="line 3: its column split says neither train nor test"):
            stated([row(2, "train"), row(3, side)])


def test_the_patient_of_dicom_files_is_known_to_a_stated_split(tmp_path: Path) -> None:
    """The table names no patient, but the files do."""
    from test_dicom import saved, source

    for k, patient in enumerate(("P1", "P2", "P1")):
        saved(source(np.full((4, 4), k, np.uint8), PatientID=patient), tmp_path / f"{k}.dcm")
    lines = [f"{k}.dcm,T.,{side}" for k, side in enumerate(("train", "train", "test"))]
    with pytest.raises(ValueError, match="lines 2 and 4 are of one patient on both sides") as caught:
        stated(listed(tmp_path, "file_name,text,split", lines).rows)
    assert "P1" not in str(caught.value)


def test_clusters_of_look_alikes_are_no_patients(tmp_path: Path) -> None:
    """Two slices that look alike may be on two sides, if the table says so: nobody knows whether they are of one."""
    for name in ("0.png", "1.png"):
        scene(0).save(tmp_path / name)
    data = listed(tmp_path, "file_name,text,split", ["0.png,T.,train", "1.png,T.,test"])
    rows = grouped(data.rows, CXR)
    assert rows[0].patient == rows[1].patient and rows[0].patient.startswith(CLUSTER)
    assert [len(part) for part in stated(rows).values()] == [1, 1]
    with pytest.raises(ValueError, match="of one patient"):
        stated([replace(one, patient="p") for one in rows])
