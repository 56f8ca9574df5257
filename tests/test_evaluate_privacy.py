"""Privacy of a folder: an honest and a memorizing generator, planted copies, attacks of known power."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vlgen.backbone import Backbone, load
from vlgen.checkpoint import sha256
from vlgen.evaluate.collection import Collection
from vlgen.evaluate.fidelity import halved
from vlgen.evaluate.planted import damaged, planted
from vlgen.evaluate.privacy import DRAWS, LEVELS, attacked, denoising_losses, privacy, without
from vlgen.evaluate.scores import Row, Section
from vlgen.features import Extractor
from vlgen.metrics.privacy import copies, copy_threshold
from vlgen.metrics.share import wilson
from vlgen.tensors import counter, normal
from vlgen.text import Cond


def points(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, seed: int, side: int = 32) -> Tensor:
    """n different pictures (n, 1, side, side) in [0, 1] with structure that survives JPEG."""
    coarse = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def folder(
    path: Path,
    pictures: Tensor,
    features: dict[str, Tensor] | None = None,
    *,
    patients: list[str] | None = None,
    reports: list[str] | None = None,
) -> Collection:
    """A collection of real PNG files with the given features."""
    path.mkdir(parents=True)
    files = [path / f"{k:04d}.png" for k in range(len(pictures))]
    for file, x in zip(files, pictures, strict=True):
        Image.fromarray((x[0] * 255).round().byte().numpy()).save(file)
    n = len(files)
    return Collection(
        path,
        tuple(files),
        tuple(reports or [""] * n),
        tuple(patients or [file.name for file in files]),
        ("cxr",) * n,
        ({},) * n,
        ({},) * n,
        tuple(map(sha256, files)),
        features=features or {},
    )


def row(section: Section, metric: str, features: str = "") -> Row:
    (found,) = [r for r in section.rows if r.metric == metric and features in ("", r.features)]
    return found


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Collection]:
    """300 training and as many held-out images, whose features the tests choose."""
    root = tmp_path_factory.mktemp("blank")
    return {name: folder(root / name, smooth(300, k, 8)) for k, name in enumerate(("train", "real", "fake"))}


def featured(blank: dict[str, Collection], **given: Tensor) -> list[Collection]:
    """(synthetic, train, held out), as many images of each as features were given."""
    return [
        replace(blank[name].subset(range(len(given[name]))), features={"known": given[name]})
        for name in ("fake", "train", "real")
    ]


def test_an_honest_generator_has_ratio_one_and_no_more_copies_than_unseen_images(blank: dict[str, Collection]) -> None:
    given = {name: points(300, 6, k) for k, name in enumerate(("train", "real", "fake"))}
    section = privacy(*featured(blank, **given))
    median = row(section, "nearest-neighbor ratio, median")
    # a log ratio scatters by about 0.4 here, so its median over 300 images by 1.25 * 0.4 / sqrt(300) = 0.03
    assert abs(math.log(median.value)) < 0.1 and median.n == 300
    assert median.interval and median.interval[0] < median.value < median.interval[1] and median.interval[0] > 0.85
    assert median.reference and abs(math.log(median.reference)) < 0.15 and median.against == "unseen real images"
    low = row(section, "nearest-neighbor ratio, 1st percentile")
    assert low.value < 0.6 < median.value
    counted = row(section, "copies")
    assert counted.reference == 3.0 and counted.against == "expected of unseen real images"
    assert counted.value <= 10 and counted.interval and counted.interval[0] <= 3 < counted.interval[1]
    assert not any("not of one source" in note for note in section.notes)


def test_a_memorizing_generator_is_found(blank: dict[str, Collection]) -> None:
    train, real = points(300, 6, 1), points(300, 6, 2)
    section = privacy(*featured(blank, train=train, real=real, fake=train[:200] + 0.01 * points(200, 6, 3)))
    assert row(section, "nearest-neighbor ratio, median").value < 0.1
    counted = row(section, "copies")
    assert (counted.value, counted.n, counted.reference) == (200, 200, 2.0)
    assert counted.interval and counted.interval[0] > 195
    exact = privacy(*featured(blank, train=train, real=real, fake=train[:50]))
    assert row(exact, "nearest-neighbor ratio, median").value == 0
    half = privacy(*featured(blank, train=train, real=real, fake=torch.cat([train[:20], points(180, 6, 5)])))
    assert 20 <= row(half, "copies").value <= 28
    assert row(half, "nearest-neighbor ratio, 1st percentile").value == 0
    assert row(half, "nearest-neighbor ratio, median").value > 0.8, "what the median misses"


def test_the_mirror_of_a_copy_has_a_finite_ratio(blank: dict[str, Collection]) -> None:
    train, real = points(300, 6, 1), points(300, 6, 2)
    section = privacy(*featured(blank, train=train, real=real, fake=real[:40]))
    assert row(section, "nearest-neighbor ratio, median").value == 1000


def test_the_order_of_the_images_does_not_matter_and_the_seed_gives_the_same(blank: dict[str, Collection]) -> None:
    given = featured(blank, **{name: points(200, 6, k) for k, name in enumerate(("train", "real", "fake"))})
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    once, twice = privacy(*given), privacy(*given)
    assert once.rows == twice.rows and once.notes == twice.notes
    turned = privacy(*(one.subset(order) for one in given))
    for a, b in zip(once.rows, turned.rows, strict=True):
        assert a.metric == b.metric and math.isclose(a.value, b.value, rel_tol=1e-9)
        # the reference cuts the training set to half of the held-out one, and which rows go follows from their place
        assert a.reference is not None and b.reference is not None
        assert math.isclose(a.reference, b.reference, rel_tol=0.15)


def test_another_source_in_the_place_of_held_out_images_is_said(blank: dict[str, Collection]) -> None:
    train, real, fake = points(300, 6, 1), points(300, 6, 2) + 4, points(300, 6, 3)
    section = privacy(*featured(blank, train=train, real=real, fake=fake))
    assert any("they are not of one source" in note for note in section.notes)


def test_with_too_few_held_out_images_the_notes_say_how_many(blank: dict[str, Collection]) -> None:
    given = {"train": points(300, 6, 1), "real": points(98, 6, 2), "fake": points(20, 6, 3)}
    section = privacy(*featured(blank, **given))
    assert [r.metric for r in section.rows] == [f"nearest-neighbor ratio, {m}" for m in ("median", "1st percentile")]
    assert any("held_out has 98 images" in note and "at least 99" in note for note in section.notes)
    one = privacy(*featured(blank, train=points(300, 6, 1), real=points(1, 6, 2), fake=points(1, 6, 3)))
    assert row(one, "nearest-neighbor ratio, median").interval is None and one.rows[0].reference is None
    with pytest.raises(ValueError, match="share no features"):
        privacy(
            *(replace(one, features={str(k): one.features["known"]}) for k, one in enumerate(featured(blank, **given)))
        )


def test_images_of_training_patients_and_training_images_are_left_out(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", smooth(6, 1), patients=["p1", "p1", "p2", "p3", "0004.png", "0005.png"])
    pictures = smooth(8, 2)
    pictures[6] = smooth(6, 1)[5]  # the same picture under another name, of an unknown patient
    own = ["p1", "q1", "p3", "q1", "0004.png", "q2", "0006.png", "p2"]
    real = folder(tmp_path / "real", pictures, {"known": torch.arange(8.0)[:, None]}, patients=own)
    left = without(real, train)
    assert left.features["known"][:, 0].tolist() == [1, 3, 4, 5], "0004.png is a file name in both, and no patient"
    bare = without(replace(real, digests=()), replace(train, digests=()))
    assert bare.groups == left.groups, "content is read where its hash is not known"
    fake = folder(tmp_path / "fake", smooth(4, 3), {"known": points(4, 1, 0)})
    section = privacy(fake, replace(train, features={"known": points(6, 1, 1)}), real)
    assert section.notes[0].startswith("4 of 8 real images are training images or of their patients")
    assert "4 are held out" in section.notes[0]
    assert "The patient of 3 held-out or training images is unknown" in section.notes[0]
    with pytest.raises(ValueError, match=r"all 3 real images .* not trained on"):
        without(real.subset([0, 2, 6]), train)
    with pytest.raises(ValueError, match="all 6 real images"):
        without(train, train)


def test_the_worst_pairs_are_shown_side_by_side(blank: dict[str, Collection]) -> None:
    train, real, fake = points(120, 4, 1), points(120, 4, 2), points(30, 4, 3)
    fake[17], fake[4] = train[99], train[5] + 1e-3
    given = featured(blank, train=train, real=real, fake=fake)
    ((caption, sheet),) = privacy(*given).pictures
    assert "known features" in caption and ": 0 / " in caption and caption.count(" / ") == 8 + 1
    assert sheet.size == (128 + 4 + 8 * 132, 4 + 3 * 132)
    held = int((real - train[99]).norm(dim=1).argmin())
    for line, (one, index) in enumerate(zip(given, (17, 99, held), strict=True)):
        box = (132, 4 + 132 * line, 260, 132 + 132 * line)
        shown = torch.tensor(list(sheet.crop(box).getdata())).reshape(128, 128) / 255
        assert torch.allclose(shown, one.picture(index, 128)[0], atol=0.5 / 255 + 1e-6), "8-bit rounding"


def see(x: Tensor) -> Tensor:
    """A blurred miniature: near for a picture that was re-saved, far for another."""
    return functional.adaptive_avg_pool2d(x, 8).flatten(1)


def blind(x: Tensor) -> Tensor:
    """Features that have nothing to do with the picture as far as the eye can tell."""
    return torch.cat([points(1, 16, counter(image.numpy().tobytes())) for image in x])


EXTRACTORS = (Extractor("blurred", 64, 8, "0", see), Extractor("blind", 16, 8, "1", blind))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[Collection]:
    """(synthetic, train, held out) with the features that both extractors see."""
    root, found = tmp_path_factory.mktemp("seen"), []
    for k, (name, n, side) in enumerate((("fake", 6, 48), ("train", 60, 40), ("real", 260, 40))):
        one = folder(root / name, smooth(n, k, side))
        pictures = torch.stack([one.picture(j, side) for j in range(n)])
        found.append(replace(one, features={e.name: e.see(pictures) for e in EXTRACTORS}))
    return found


def test_planted_copies_are_found_by_features_that_see_and_missed_by_features_that_do_not(
    seen: list[Collection],
) -> None:
    told: list[tuple[str, int, int]] = []
    section = planted(*seen, EXTRACTORS, progress=lambda *step: told.append(step))
    recall = row(section, "planted copies found", "blurred")
    assert (recall.value, recall.n) == (1.0, 60) and recall.interval == pytest.approx(wilson(60, 60))
    assert row(section, "planted copies found", "blind").value < 0.1, "at the same threshold: the test has power"
    for name in ("blurred", "blind"):
        alarms = row(section, "false alarms on held-out real images", name)
        assert alarms.n == 130 and alarms.reference == 0.01
        assert alarms.value <= 6 / 130, "calibrated on 130 others at 1/131: 7 or more have a chance below 1e-3"
        assert alarms.interval and alarms.interval[0] <= alarms.value <= alarms.interval[1]
    (note,) = [note for note in section.notes if "planted copies were found" in note]
    assert "On blind features" in note and "fewer than 95%" in note
    assert told[-1] == ("blind features of planted copies", 60, 60)
    assert len(section.pictures) == 1 and section.rows == planted(*seen, EXTRACTORS).rows
    _, train, real = seen
    first, second = halved(real, 0)
    threshold = copy_threshold(train.features["blind"], real.features["blind"][first], 0.2)
    accused = copies(real.features["blind"][second], train.features["blind"], threshold).double().mean()
    many = planted(*seen, EXTRACTORS[1:], rate=0.2)
    assert row(many, "false alarms on held-out real images").value == float(accused) > 0.05, "of the other half"
    assert abs(row(many, "planted copies found").value - 0.2) < 0.16, (
        "three standard errors of 60: blind features guess"
    )
    fewer = planted(*seen, EXTRACTORS[:1], most=10)
    assert row(fewer, "planted copies found").n == 10


def test_planting_with_too_few_held_out_images_says_how_many_are_needed(seen: list[Collection]) -> None:
    synthetic, train, real = seen
    some = planted(synthetic, train, real.subset(range(150)), EXTRACTORS[:1])
    assert [r.metric for r in some.rows] == ["planted copies found"], "all 150 calibrate, none are left for alarms"
    assert any("150 held-out images, and two halves of 99" in note for note in some.notes)
    none = planted(synthetic, train, real.subset(range(50)), EXTRACTORS[:1])
    assert not none.rows and not none.pictures
    assert any("held_out has 50 images" in note and "at least 99" in note for note in none.notes)
    with pytest.raises(ValueError, match="no blurred features"):
        planted(synthetic, replace(train, features={}), real, EXTRACTORS[:1])


def test_a_planted_copy_is_damaged_mildly_and_in_the_size_of_a_synthetic_image(seen: list[Collection]) -> None:
    x = smooth(20, 7, 64)
    saved = torch.stack([damaged(one, k) for k, one in enumerate(x)])
    assert saved.shape == x.shape and float(saved.min()) >= 0 and float(saved.max()) <= 1
    assert torch.equal(saved[3], damaged(x[3], 3)) and not torch.equal(saved[3], damaged(x[3], 4))
    error = (saved - x).square().mean((1, 2, 3)).sqrt()
    other = (x.roll(1, 0) - x).square().mean((1, 2, 3)).sqrt()
    assert float(error.min()) > 0.005 and float(error.max()) < 0.5 * float(other.min()), "a copy, and not the same bits"
    flat = damaged(torch.full((1, 40, 40), 0.5), 0)
    assert float((flat - 0.5).abs().max()) == pytest.approx(0.01, abs=1.5 / 255), "2 % of 0.5, in 8 bits"
    spot = torch.zeros(1, 65, 65)
    spot[0, 31:34, 31:34] = 1
    grid = torch.arange(65.0)
    for k in range(6):
        moved = damaged(spot, k)[0]
        moved = moved * (moved > 0.2)  # without the waves of JPEG
        center = [float((moved.sum(axis) * grid).sum() / moved.sum()) - 32 for axis in (0, 1)]
        assert all(0.6 < abs(c) < 2.5 for c in center), "1 or 2 pixels along each axis"
    sizes: list[int] = []

    def look(images: Tensor) -> Tensor:
        sizes.append(images.shape[-1])
        return see(images)

    planted(*seen, [Extractor("blurred", 64, 8, "0", look)])
    assert set(sizes) == {48}
    with pytest.raises(ValueError, match=r"give \(1, H, W\)"):
        damaged(x, 0)


def test_the_whole_section_with_planting_and_a_model(
    seen: list[Collection], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST", 100), ("LEVELS", (1.0,)), ("DRAWS", 1)):
        monkeypatch.setattr(import_module("vlgen.evaluate.privacy"), name, value)
    told: list[str] = []
    section = privacy(*seen, EXTRACTORS[:1], backbone=load(own), progress=lambda what, done, total: told.append(what))
    metrics = [r.metric for r in section.rows]
    assert metrics.index("planted copies found") < metrics.index("membership inference by the loss, AUC")
    assert set(told) == {"nearest neighbors", "blurred features of planted copies", "denoising loss"}
    assert section.name == "privacy" and len(section.pictures) == 2 + 1
    assert all(math.isfinite(r.value) and r.n > 0 for r in section.rows)


def test_the_loss_is_that_of_its_definition_and_independent_of_the_batch(own: Path) -> None:
    backbone = load(own)
    x, texts = smooth(5, 1), ["Chest radiograph.", "", "Pleural effusion.", "", "PA chest radiograph. No finding."]
    losses = denoising_losses(backbone, x, texts, seed=3)
    assert losses.dtype == torch.float64 and losses.shape == (5,)
    # float32 networks on batches of other sizes differ by some 1e-6 of a value
    one = torch.cat([denoising_losses(backbone, x[k : k + 1], texts[k : k + 1], seed=3) for k in range(5)])
    assert torch.allclose(losses, one, rtol=1e-4)
    assert torch.allclose(denoising_losses(backbone, x, texts, seed=3, batch=2), losses, rtol=1e-4)
    assert not torch.allclose(denoising_losses(backbone, x, texts, seed=4), losses, rtol=1e-4)
    errors = []
    with torch.no_grad():
        z = backbone.encode(2 * x[2:3] - 1)
        for sigma in LEVELS:
            for draw in range(DRAWS):
                noise = sigma * normal(backbone.shape, [counter("membership", 3, sigma, draw)])
                clean = backbone.denoise(z + noise, torch.tensor(sigma), backbone.embed([texts[2]]))
                errors.append(float((clean - z).square().mean()) * (1 + sigma**2) / sigma**2)
    assert math.isclose(float(losses[2]), sum(errors) / len(errors), rel_tol=1e-4)


class Memory(Backbone):
    """A generator that has learned its training images by heart: the exact denoiser of their empirical distribution."""

    memory: Tensor

    def denoise(self, z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        squared = (z.flatten(1)[:, None] - self.memory.flatten(1)).square().sum(2)
        weights = (-squared / (2 * sigma**2)).softmax(1)
        return (weights @ self.memory.flatten(1)).reshape(z.shape)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Collection]:
    root = tmp_path_factory.mktemp("members")
    reports = ["Chest radiograph. No finding."] * 120
    return [folder(root / name, smooth(120, k), reports=reports) for k, name in enumerate(("train", "real"))]


def test_membership_is_inferred_from_a_model_that_knows_its_images_by_heart(
    own: Path, members: list[Collection]
) -> None:
    plain, train, silent = load(own), members[0], lambda what, done, total: None
    memory = Memory(**{f.name: getattr(plain, f.name) for f in fields(plain)})
    memory.memory = plain.encode(2 * torch.stack([train.picture(k, 32) for k in range(len(train))]) - 1)
    (auc, tpr), (note,) = attacked(memory, *members, seed=0, progress=silent)
    assert auc.value > 0.99 and tpr.value > 0.9 and auc.n == tpr.n == 120
    assert (auc.reference, tpr.reference, auc.against) == (0.5, 0.01, "chance")
    assert "sigma = 0.25, 0.5, 1, 2" in note and "each with its own report" in note
    train, real = train.subset(range(100)), members[1].subset(range(100))
    (auc, tpr), (note,) = attacked(plain, train, replace(real, reports=("",) * 100), seed=0, progress=silent)
    assert auc.interval and tpr.interval and auc.interval[0] < 0.5 < auc.interval[1], "it has learned nothing of them"
    assert abs(auc.value - 0.5) < 0.123, "three standard errors of 100 against 100: sqrt(1 / (6 * 100)) = 0.041"
    assert "without text" in note
    rows, (note,) = attacked(plain, train, members[1].subset(range(99)), seed=0, progress=silent)
    assert (
        not rows and "needs 2 training and 100 held-out images for 1% of false alarms, and there are 100 and 99" in note
    )


def test_wilson_equals_scipy_and_has_a_width_at_the_ends() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the dev extra")
    for count, n in ((0, 1), (0, 50), (3, 50), (50, 50), (199, 200)):
        expected = stats.binomtest(count, n).proportion_ci(method="wilson")
        assert wilson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson(0, 50)[0] == 0 < wilson(0, 50)[1] and wilson(50, 50)[0] < 1 == wilson(50, 50)[1]
    for count, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="is no share"):
            wilson(count, n)
