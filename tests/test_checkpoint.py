"""Checkpoints: what was saved comes back, what is torn is passed over, and two are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlgen.checkpoint import FACTS, MANIFEST, TENSORS, Checkpoint, latest, save


def at(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((3,), float(step)), "n": torch.tensor(step)}, {"skipped": step})


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for step in (5, 10, 15):
        save(tmp_path, at(step))
    found = latest(tmp_path)
    assert found is not None and found.step == 15 and found.facts == {"skipped": 15}
    assert torch.equal(found.tensors["w"], at(15).tensors["w"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000010", "step-000000015"]


@pytest.mark.parametrize("name", [TENSORS, FACTS, MANIFEST])
@pytest.mark.parametrize("harm", ["cut", "flip", "delete", "empty"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, name: str, harm: str) -> None:
    save(tmp_path, at(1))
    file = save(tmp_path, at(2)) / name
    data = file.read_bytes()
    if harm == "delete":
        file.unlink()
    else:
        # one flipped bit in the middle of a hexadecimal sha256 or of the payload
        flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        file.write_bytes({"cut": data[:-3], "flip": flipped, "empty": b""}[harm])
    found = latest(tmp_path)
    assert found is not None and found.step == 1


def test_a_full_disk_keeps_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, at(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ValueError, match="No space left"):
        save(tmp_path, at(2))
    found = latest(tmp_path)
    assert found is not None and found.step == 1 and len(list(tmp_path.iterdir())) == 1


def test_another_error_is_not_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise TypeError("a mistake in the program")

    monkeypatch.setattr("safetensors.torch.save_file", wrong)
    with pytest.raises(TypeError, match="mistake"):
        save(tmp_path, at(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("manifest", ["[]", "3", '{"step": 2, "sha256": {}}', '{"step": 2, "sha256": ["x"]}', "null"])
def test_a_manifest_that_vouches_for_nothing_is_passed_over(tmp_path: Path, manifest: str) -> None:
    save(tmp_path, at(1))
    (save(tmp_path, at(2)) / MANIFEST).write_text(manifest)
    found = latest(tmp_path)
    assert found is not None and found.step == 1


def test_what_killed_runs_left_behind_goes_with_the_next_save(tmp_path: Path) -> None:
    save(tmp_path, at(1)).rename(tmp_path / ".step-000000001.tmp")
    save(tmp_path, at(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000002"]


def test_a_folder_that_was_never_renamed_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, at(1))
    save(tmp_path, at(2)).rename(tmp_path / ".step-000000002.tmp")
    found = latest(tmp_path)
    assert found is not None and found.step == 1
