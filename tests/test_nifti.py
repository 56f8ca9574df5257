"""NIfTI volumes: slices lie as a radiologist looks at them, whatever order their voxels are stored in."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlgen import nifti
from vlgen.dataset import Dataset, load, windowed
from vlgen.files import Refused
from vlgen.modality import modality

nibabel = pytest.importorskip("nibabel")


def volume(
    path: Path, *, codes: str = "RAS", spacing: tuple[float, float, float] = (1, 1, 1), scale: float = 1
) -> Path:
    """A box of 12 x 16 x 20 voxels with one bright spot: to the patient's right, at the front, on top."""
    x = np.zeros((12, 16, 20), np.float32)
    x[3:9, 4:12, 5:15] = 100
    x[10, 14, 18] = 1000  # in RAS+, high indices are right, front and top
    affine = np.diag([*spacing, 1.0])
    image = nibabel.Nifti1Image(x * scale, affine)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    ))  # fmt: skip
    nibabel.save(turned, path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SRA"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_slices_lie_as_a_radiologist_looks_at_them(tmp_path: Path, codes: str, ending: str) -> None:
    path = volume(tmp_path / f"v.{ending}", codes=codes, spacing=(1.0, 2.0, 3.0))
    want = {  # plane: slice, row, column of the spot; shape; mm between rows and between columns
        "axial": ((18, 1, 1), (20, 16, 12), (2.0, 1.0)),  # front up, the patient's right on the left
        "coronal": ((14, 1, 1), (16, 20, 12), (3.0, 1.0)),  # top up, right on the left
        "sagittal": ((10, 1, 1), (12, 20, 16), (3.0, 2.0)),  # top up, front on the left
    }
    for plane, (spot, shape, spacing) in want.items():
        found = nifti.read(path, plane)
        assert found.values.shape == shape and found.spacing == spacing
        assert tuple(int(k) for k in (found.values == 1000).nonzero()[0]) == spot, plane


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(image, tmp_path / "v.nii")
    stored = nibabel.load(tmp_path / "v.nii").get_fdata()
    found = nifti.read(tmp_path / "v.nii", "axial").values
    assert float(found.min()) == stored.min() and float(found.max()) == stored.max()


def test_what_is_no_volume_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="say which slices to take: axial, coronal, sagittal"):
        nifti.read(volume(tmp_path / "v.nii"), "")
    (tmp_path / "no.nii").write_bytes(b"no" * 400)
    with pytest.raises(Refused, match="not a NIfTI file"):
        nifti.read(tmp_path / "no.nii", "axial")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(Refused, match="three axes, this file 2 volumes"):
        nifti.read(tmp_path / "four.nii", "axial")
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(Refused, match="must be finite"):
        nifti.read(tmp_path / "nan.nii", "axial")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(Refused, match="shows nothing"):
        nifti.slices(tmp_path / "flat.nii", "axial")
    header = bytearray((tmp_path / "flat.nii").read_bytes())
    header[42:48] = (30000).to_bytes(2, "little") * 3  # dim[1..3]
    (tmp_path / "bomb.nii").write_bytes(header)
    with pytest.raises(Refused, match="more than 268,435,456 voxels"):
        nifti.read(tmp_path / "bomb.nii", "axial")


def test_a_dataset_takes_the_slices_that_show_something(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz", spacing=(1, 2, 1))
    volume(tmp_path / "b.nii")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,plane,slice\na.nii.gz,Brain MRI. No tumor.,,\nb.nii,Brain MRI. Glioma.,coronal,7\n"
        "b.nii,Brain MRI. Glioma.,coronal,99\n"
    )
    data = Dataset(tmp_path, plane="axial")
    first = [row for row in data if row.line == 2]
    assert [row.index for row in first] == list(range(5, 15)) and {row.plane for row in first} == {"axial"}
    last = data.rows[-1]
    assert (last.index, last.plane, last.line) == (7, "coronal", 3) and len(data) == 11
    assert data.refused == ((4, "no slice of that number: the coronal ones run from 0 to 15"),)
    assert len({row.patient for row in first}) == 1 and first[0].patient not in ("", last.patient)
    assert "a.nii" not in first[0].patient
    first = Dataset(tmp_path).refused[0]
    assert first[0] == 2 and first[1].startswith("a volume; say which slices to take")


def test_pixels_become_square_and_values_relative_or_stay_in_their_unit(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii", spacing=(1, 3, 1))
    (tmp_path / "metadata.csv").write_text("file_name,text\na.nii,Brain MRI.\n")
    row = Dataset(tmp_path, plane="axial").rows[0]
    x = load(row, modality("mri"), 48, fit="letterbox")
    body = (x[0] > 0.5).nonzero()
    tall, wide = (int(body[:, k].max() - body[:, k].min() + 1) for k in (0, 1))
    # The body is 8 voxels of 3 mm by 6 of 1 mm, so four times as tall as wide; the edges blur by a pixel.
    assert tall / wide == pytest.approx(4, rel=0.2)
    assert float(x.min()) == -1 and float(x.max()) == pytest.approx(1, abs=0.02)
    volume(tmp_path / "a.nii", scale=0.5)  # 50 in the body
    row = Dataset(tmp_path, plane="axial").rows[0]
    y = load(row, windowed(modality("ct"), "0,100"), 16, fit="letterbox")
    assert float(y[0, 8, 8]) == pytest.approx(0, abs=1e-5), "50 HU in a window of 0 to 100"
    assert torch.isfinite(y).all()


def test_oblique_volumes_are_cut_along_the_nearest_of_their_own_axes(tmp_path: Path) -> None:
    straight = nibabel.load(volume(tmp_path / "v.nii", spacing=(1, 2, 3)))
    for degrees, axis in ((20, 0), (-30, 1), (40, 2)):
        turn = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(*(np.eye(3)[2 - axis] * np.radians(degrees))))
        nibabel.save(
            nibabel.Nifti1Image(straight.get_fdata(dtype=np.float32), turn @ straight.affine), tmp_path / "o.nii"
        )
        for plane in nifti.PLANES:
            want, found = nifti.read(tmp_path / "v.nii", plane), nifti.read(tmp_path / "o.nii", plane)
            assert torch.equal(found.values, want.values) and found.spacing == pytest.approx(want.spacing, rel=1e-6)


def test_headers_that_do_not_say_where_the_right_is_or_lie(tmp_path: Path) -> None:
    """Wrong magic, no orientation, axes of no length, colors, a pair of files, and a gzip that unpacks for hours."""
    x = np.arange(216, dtype=np.float32).reshape(6, 6, 6)

    def saved(name: str, image: Any) -> Path:
        nibabel.save(image, tmp_path / name)
        return tmp_path / name

    lost = saved("lost.nii", nibabel.Nifti1Image(x, None))
    with pytest.raises(Refused, match="left and right are not known: set its sform or qform"):
        nifti.read(lost, "axial")
    for bad in (0.0, np.nan):
        affine = np.diag([1, bad, 1, 1.0])
        flat = bytearray(saved("flat.nii", nibabel.Nifti1Image(x, np.eye(4))).read_bytes())
        flat[280 + 16 : 280 + 32] = affine[1].astype("<f4").tobytes()  # srow_y
        (tmp_path / "flat.nii").write_bytes(flat)
        with pytest.raises(Refused, match=r"no three axes of finite length|not a readable NIfTI"):
            nifti.read(tmp_path / "flat.nii", "axial")
    color = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, image in (("color", nibabel.Nifti1Image(color, np.eye(4))),
                        ("wave", nibabel.Nifti1Image(x.astype(np.complex64), np.eye(4)))):  # fmt: skip
        with pytest.raises(Refused, match="must be real numbers"):
            nifti.read(saved(f"{name}.nii", image), "axial")
    good = saved("good.nii", nibabel.Nifti1Image(x, np.eye(4))).read_bytes()
    saved("two.nii", nibabel.Nifti2Image(x, np.eye(4)))
    assert torch.equal(
        nifti.read(tmp_path / "two.nii", "axial").values, nifti.read(tmp_path / "good.nii", "axial").values
    )
    for name, data, said in (
        ("magic.nii", good[:344] + b"nix\0" + good[348:], "not a NIfTI file"),
        ("pair.nii", good[:344] + b"ni1\0" + good[348:], "not a NIfTI file"),
        ("short.nii", good[:-40], "not a readable NIfTI file"),
        ("tiny.nii", good[:3], "not a readable NIfTI file"),
        ("empty.nii", b"", "not a readable NIfTI file"),
        ("bare.nii.gz", good, "not a readable NIfTI file"),
        ("cut.nii.gz", gzip.compress(good)[:-60], "not a readable NIfTI file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Refused, match=said):
            nifti.read(tmp_path / name, "axial")
    for offset in (2.0**40, -1.0, np.nan):  # voxels behind a terabyte of zeros
        packed = good[:108] + np.float32(offset).tobytes() + good[112:]
        (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(packed + bytes(1 << 20)))
        with pytest.raises(Refused, match="more than 16 MiB before its voxels"):
            nifti.read(tmp_path / "bomb.nii.gz", "axial")


def test_one_slice_is_asked_for_by_its_number_in_the_plane(tmp_path: Path) -> None:
    volume(tmp_path / "v.nii", codes="PSR")
    assert [nifti.count(tmp_path / "v.nii", plane) for plane in ("sagittal", "coronal", "axial")] == [12, 16, 20]
    lines = [f"v.nii,T.,{plane},{k}" for plane, k in (("Axial", 19), ("coronal", 3), ("axial", 20), ("axial", "-1"),
                                                     ("axial", "²"), ("axial", "9" * 5000), ("axial", 19))]  # fmt: skip
    (tmp_path / "metadata.csv").write_text("file_name,text,plane,slice\n" + "\n".join(lines))
    data = Dataset(tmp_path)
    assert [(row.plane, row.index) for row in data] == [("axial", 19), ("coronal", 3)]
    said = "no slice of that number: the axial ones run from 0 to 19"
    assert data.refused == (*((k, said) for k in (4, 5, 6, 7)), (8, "the same slice as line 2"))


FOUND = [up / "shared" / "data" for up in Path(__file__).resolve().parents[1:3] if (up / "shared" / "data").is_dir()]


@pytest.mark.skipif(not FOUND, reason="the open data sets are not here")
def test_a_real_volume_lies_as_its_scanner_s_own_slices_do() -> None:
    """Sagittal DICOM slices of the same head, whose rows run from front to back, top up, as their orientation says."""
    pydicom = pytest.importorskip("pydicom")
    head = FOUND[0] / "brain_mri_volume"
    v = nifti.read(head / "mprage_t1.nii.gz", "sagittal")
    assert v.values.shape == (192, 256, 256) and v.spacing == pytest.approx((0.859375, 0.859375))
    for name in ("0033", "0129", "0161"):
        ds = pydicom.dcmread(head / "dicom" / f"{name}.dcm")
        across, down = np.array(ds.ImageOrientationPatient).reshape(2, 3)
        assert across.argmax() == 1 and down.argmin() == 2, "columns run to the back, rows to the feet"
        x = torch.from_numpy(ds.pixel_array.astype(np.float32)).flatten()
        best = {}
        for flips in ((), (1,), (2,), (1, 2)):
            y = v.values.flip(flips).flatten(1)
            both = torch.corrcoef(torch.cat([x[None], y[20:172:4]]))[0, 1:]
            best[flips] = float(both.nan_to_num(0).max())
        assert max(best, key=lambda flips: best[flips]) == (), best
