"""Fidelity: equal sets are as near as two halves, far ones are not; patients are never split; groups and diversity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from vlgen.evaluate import Collection, Row
from vlgen.evaluate.fidelity import fidelity, halved
from vlgen.metrics.distribution import frechet

PICTURE = Path()  # what a contact sheet shows where a test is about features alone


@pytest.fixture(scope="module", autouse=True)
def _picture(tmp_path_factory: pytest.TempPathFactory) -> None:
    global PICTURE
    PICTURE = tmp_path_factory.mktemp("fidelity") / "one.png"
    Image.new("L", (16, 16), 128).save(PICTURE)


def made(x: Tensor, *, patients: int = 1, name: str = "f", **given: tuple[object, ...]) -> Collection:
    """A collection of features alone; `patients` consecutive images belong to one patient."""
    n = len(x)
    columns: dict[str, object] = {
        "reports": ("",) * n,
        "groups": tuple(f"p{k // patients}" for k in range(n)),
        "modalities": ("",) * n,
        "findings": ({},) * n,
        "traits": ({},) * n,
    }
    return Collection(Path(), (PICTURE,) * n, **(columns | given), features={name: x})  # type: ignore[arg-type]


def gauss(n: int, seed: int, shift: float = 0.0, d: int = 8) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def rows(section: object, group: str = "all") -> dict[str, Row]:
    return {row.metric: row for row in section.rows if row.group == group}  # type: ignore[attr-defined]


def test_one_distribution_is_as_near_as_two_halves() -> None:
    found = rows(fidelity(made(gauss(600, 0)), made(gauss(300, 1)), draws=40))
    assert found["Frechet distance"].n == 300
    assert found["Frechet distance"].ratio == pytest.approx(1, abs=0.35)
    low, high = found["kernel distance"].interval or (1, -1)
    assert low < 0 < high, "unbiased: nothing lies around 0"
    for name in ("precision", "recall", "coverage"):
        assert found[name].value == pytest.approx(found[name].reference, abs=0.05)
    assert all(row.against == "two real halves" for row in found.values())


def test_the_order_of_distance_is_the_order_of_shift() -> None:
    real = made(gauss(400, 0))
    found = [rows(fidelity(real, made(gauss(200, 1, shift)), draws=40)) for shift in (0, 0.5, 2)]
    for metric in ("Frechet distance", "kernel distance"):
        near, middle, far = (one[metric].value for one in found)
        assert near < middle < far
        low, high = found[2][metric].interval or (0, 0)
        assert low < far < high
    assert found[2]["precision"].value < 0.5 < found[0]["precision"].value
    assert found[2]["Frechet distance"].value == pytest.approx(8 * 4, rel=0.1), "|shift|^2 d for equal covariances"


def test_halves_never_share_a_patient() -> None:
    one = made(gauss(90, 0), patients=7)
    first, second = halved(one, 3)
    groups = [{one.groups[int(row)] for row in part} for part in (first, second)]
    assert not groups[0] & groups[1] and len(first) == len(second) >= 35
    assert not torch.equal(first, halved(one, 4)[0])
    # ten copies of each image of a patient: halves by image would hold twins, and their distance would vanish
    twins = made(gauss(40, 0).repeat_interleave(10, 0), patients=10)
    first, second = halved(twins, 0)
    x = twins.features["f"]
    leaked = frechet(x[::2], x[1::2])
    assert frechet(x[first], x[second]) > 10 * max(leaked, 0.01)


def test_modalities_and_findings_have_rows_of_their_own() -> None:
    x = torch.cat([gauss(120, 0), gauss(120, 1, 5)])
    kinds = ("cxr",) * 120 + ("mri",) * 120
    findings = tuple(
        {"pleural effusion": k % 2 == 0} if k < 120 else {"glioma": True} if k < 130 else {} for k in range(240)
    )
    real = made(x, modalities=kinds, findings=findings)
    fake = made(torch.cat([gauss(120, 2), gauss(120, 3, 9)]), modalities=kinds, findings=findings)
    section = fidelity(real, fake, draws=40)
    assert {row.group for row in section.rows} == {"all", "cxr", "mri", "pleural effusion"}
    assert rows(section, "cxr")["Frechet distance"].ratio == pytest.approx(1, abs=0.5)
    assert rows(section, "mri")["Frechet distance"].value > 50
    assert rows(section, "pleural effusion")["Frechet distance"].n == 30
    assert any("glioma" in note for note in section.notes), "a group that is too small is named"


def test_too_few_images_say_how_many() -> None:
    captions = [caption for caption, _ in fidelity(made(gauss(30, 0)), made(gauss(12, 0)), draws=40).pictures]
    assert captions[0].startswith("16 real") and captions[1].startswith("12 synthetic")
    with pytest.raises(ValueError, match=r"19 real and 300 synthetic .* at least 20 real"):
        fidelity(made(gauss(19, 0)), made(gauss(300, 0)))
    with pytest.raises(ValueError, match="two patients"):
        fidelity(made(gauss(100, 0), patients=100), made(gauss(300, 0)))


def test_seed_and_order() -> None:
    real, fake = made(gauss(60, 0)), made(gauss(40, 1))
    once, again = (fidelity(real, fake, draws=40, seed=5) for _ in range(2))
    assert once.rows == again.rows
    other = fidelity(real, fake, draws=40, seed=6)
    assert once.rows != other.rows


def test_clip_mmd_only_on_features_with_words() -> None:
    real, fake = made(gauss(60, 0)), made(gauss(40, 1))
    assert "CLIP-MMD" not in rows(fidelity(real, fake, draws=40))
    assert "CLIP-MMD" in rows(fidelity(real, fake, draws=40, spoken=["f"]))


def test_diversity_tells_one_image_repeated(tmp_path: Path) -> None:
    """Thirty prompts of two images: noise is diverse, the same image twice is not."""
    import numpy as np

    generator = np.random.default_rng(0)

    def folder(name: str, repeat: bool) -> tuple[Path, ...]:
        (tmp_path / name).mkdir()
        files = []
        for k in range(60):
            pixels = np.random.default_rng(k // 2).random((24, 24)) if repeat else generator.random((24, 24))
            Image.fromarray((pixels * 255).astype(np.uint8)).save(tmp_path / name / f"{k}.png")
            files.append(tmp_path / name / f"{k}.png")
        return tuple(files)

    texts = tuple(f"report {k // 2}" for k in range(60))
    sets = {}
    for name in ("diverse", "repeated"):
        files = folder(name, name == "repeated")
        sets[name] = Collection(
            tmp_path, files, texts, tuple(map(str, range(60))), ("",) * 60, ({},) * 60, ({},) * 60,
            features={"f": gauss(60, 0)},
        )  # fmt: skip
    apart = rows(fidelity(sets["diverse"], sets["diverse"], draws=40))["MS-SSIM within a prompt"]
    alike = rows(fidelity(sets["diverse"], sets["repeated"], draws=40))["MS-SSIM within a prompt"]
    assert alike.value == pytest.approx(1, abs=1e-6) and apart.value < 0.9 and alike.reference == apart.reference
    assert alike.n == 30
