"""Collections: every image is read or named, in its unit; facts from reports; features cached by content."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vlgen.evaluate import collection, gather
from vlgen.evaluate.facts import known_findings, known_traits
from vlgen.features import Extractor
from vlgen.report import Report


def plain(name: str = "means", calls: list[int] | None = None) -> Extractor:
    """An extractor of four means, one of each quarter of an image."""

    def see(x: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(x))
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1).float()

    return Extractor(name=name, dimension=4, size=16, fingerprint=name, see=see, read=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of several kinds, two that cannot be read, and reports for some."""
    root = tmp_path / "real"
    (root / "deep").mkdir(parents=True)
    ramp = np.linspace(0, 255, 40 * 40).reshape(40, 40)
    Image.fromarray(ramp.astype(np.uint8)).save(root / "a.png")
    Image.fromarray((ramp * 257).astype(np.uint16)).save(root / "b.png")
    Image.fromarray(np.stack([ramp] * 3, -1).astype(np.uint8)).resize((60, 40)).save(
        root / "deep" / "c.jpg", quality=95
    )
    np.save(root / "d.npy", ramp.astype(np.uint16))
    np.save(root / "frames.npy", np.zeros((5, 20, 20), np.float32))
    np.save(root / "unknown.npy", ramp.astype(np.float32))
    (root / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (root / "notes.txt").write_text("not an image")
    with open(root / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "patient", "source", "text"])
        writer.writerow(["a.png", "p1", "one", "PA chest radiograph, 40-year-old man. Left pleural effusion."])
        writer.writerow(["b.png", "p1", "one", "AP chest radiograph. No acute finding."])
        writer.writerow(["deep/c.jpg", "p2", "two", "Brain MRI. Glioma."])
    return root


def test_every_file_is_read_or_named(folder: Path) -> None:
    found = gather(folder)
    assert [path.name for path in found.files] == ["a.png", "b.png", "d.npy", "c.jpg"]
    assert [name for name, _ in found.refused] == ["frames.npy", "torn.png", "unknown.npy"]
    reasons = dict(found.refused)
    assert "5 channels or frames" in reasons["frames.npy"] and "outside [0, 1]" in reasons["unknown.npy"]
    assert found.stated["n"] == 4
    assert found.stated["sizes"] == {"40 x 40": 3, "60 x 40": 1}
    assert found.stated["depths"] == {"8 bit": 1, "16 bit": 1, "uint16": 1, "8 bit color": 1}
    assert str(folder) not in repr(found.refused)


def test_eight_and_sixteen_bits_and_color_are_the_same_picture(folder: Path) -> None:
    found = gather(folder)
    eight, sixteen, _, color = (found.picture(row, 32) for row in range(4))
    assert (eight - sixteen).abs().max() < 0.01
    assert eight.shape == color.shape == (1, 32, 32)
    assert eight.min() >= 0 and eight.max() <= 1


def test_hu_goes_through_the_window_of_ct(tmp_path: Path) -> None:
    from vlgen.images import Images, write
    from vlgen.modality import modality

    ct = modality("ct")
    x = (
        torch.tensor([-1000.0, 500.0, -250.0, 2000.0])
        .reshape(1, 1, 2, 2)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)
    )
    write(Images(x, ct, ({"seed": 0},)), tmp_path, format="dicom")
    found = gather(tmp_path)
    assert found.modalities == ("ct",)
    shown = found.picture(0, 16)
    assert shown[0, 0, 0] == pytest.approx(0, abs=1e-3) and shown[0, 0, 8] == pytest.approx(1, abs=1e-3)
    assert shown[0, 8, 0] == pytest.approx(0.5, abs=1e-3) and shown[0, 8, 8] == 1, "what is above the window saturates"


def test_reports_become_facts(folder: Path) -> None:
    found = gather(folder)
    assert found.groups == ("p1", "p1", "d.npy", "p2")
    assert found.modalities == ("cxr", "cxr", "", "mri")
    assert found.findings[0] == {"pleural effusion": True}, "silence is not absence"
    assert found.findings[1]["pneumothorax"] is False and "glioma" not in found.findings[1]
    assert found.traits[0] == {"view": "PA", "sex": "male", "age group": "adult", "side": "left"}
    assert found.traits[3] == {"class": "glioma"}


def test_facts_of_a_report() -> None:
    uncertain = Report.parse("Chest radiograph. Possible pneumothorax. No pleural effusion.")
    assert known_findings(uncertain) == {"pleural effusion": False}
    child = known_traits(Report.parse("Chest radiograph of a child."), {})
    assert child["age group"] == "child"
    assert known_traits(Report.parse("Chest radiograph."), {"age": "7"})["age group"] == "child"
    assert known_traits(Report.parse("Breast ultrasound. Malignant mass."), {})["class"] == "malignant mass"
    assert known_traits(Report.parse("Breast ultrasound. No mass."), {})["class"] == "none"
    assert "side" not in known_traits(Report.parse("Left effusion. Right pneumothorax."), {})


def test_a_part_of_a_folder(folder: Path) -> None:
    assert len(gather(f"{folder}:source=one")) == 2
    assert len(gather(f"{folder}:source=one,patient=p1")) == 2
    with pytest.raises(ValueError, match="no image with source=three"):
        gather(f"{folder}:source=three")
    with pytest.raises(ValueError, match="no metadata column 'color'"):
        gather(f"{folder}:color=red")
    with pytest.raises(ValueError, match="is not a folder"):
        gather(folder / "nothing")


def test_features_keep_the_order_whatever_the_size(folder: Path) -> None:
    found = gather(folder, [plain()])
    assert found.features["means"].shape == (4, 4)
    for row in range(4):
        alone = plain().see(found.picture(row, 40)[None])[0]
        assert torch.allclose(found.features["means"][row], alone, atol=0.02)
    assert torch.equal(found.subset([2, 0]).features["means"], found.features["means"][[2, 0]])
    assert found.subset([2, 0]).groups == ("d.npy", "p1")


def test_features_are_cached_by_content(folder: Path, tmp_path: Path) -> None:
    cache, calls = tmp_path / "cache", list[int]()
    first = gather(folder, [plain(calls=calls)], cache=cache)
    assert sum(calls) == 4 and cache.stat().st_mode & 0o077 == 0
    names = [path.name for path in cache.iterdir()]
    assert len(names) == 1 and "real" not in names[0]
    again = gather(folder, [plain(calls=calls)], cache=cache)
    assert sum(calls) == 4 and torch.equal(first.features["means"], again.features["means"])
    next(cache.iterdir()).write_bytes(b"torn")
    gather(folder, [plain(calls=calls)], cache=cache)
    assert sum(calls) == 8, "a damaged cache is made again"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "a.png")
    gather(folder, [plain(calls=calls)], cache=cache)
    assert sum(calls) == 12, "another image under the same name is another image"
    gather(folder, [plain("other", calls)], cache=cache)
    assert sum(calls) == 16, "another extractor has features of its own"


def test_progress_ends_where_it_said(folder: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def progress(what: str, done: int, total: int) -> None:
        seen[what] = (done, total)

    gather(folder, [plain()], progress=progress)
    assert all(done == total for done, total in seen.values()) and len(seen) == 2


def test_reports_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    table.write_text("file_name,text\na.png,Chest radiograph. Pneumothorax.\n")
    found = gather(folder, reports=table)
    assert found.findings[0] == {"pneumothorax": True} and found.reports[1] == ""
    with pytest.raises(ValueError, match="cannot be read"):
        gather(folder, reports=tmp_path / "none.csv")


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no image"):
        gather(tmp_path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="none of the 1 images"):
        gather(tmp_path)
    assert collection.KINDS[0] == ".png"
