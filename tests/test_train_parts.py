"""The parts of a fine-tune: what it learns from, by which loss, and what it says beforehand and afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from films import TEXTS, films
from PIL import Image

from vlgen.backbone import Backbone, load
from vlgen.dataset import Dataset
from vlgen.dataset import load as load_row
from vlgen.kernels import kernel
from vlgen.modality import modality
from vlgen.plan import plan
from vlgen.report import Report
from vlgen.tensors import counter
from vlgen.train.audit import Losses, audit, sentences
from vlgen.train.captions import captions
from vlgen.train.job import Job, job, kind_of
from vlgen.train.latents import latents, states
from vlgen.train.losses import error, levels, measured, weight
from vlgen.train.network import arranged
from vlgen.train.outline import finished, outline
from vlgen.train.pictures import FEATURES, Real, collection, pictures
from vlgen.train.settings import Settings
from vlgen.train.survey import survey
from vlgen.train.timing import train_step_timing

CXR = modality("cxr")


def job_of(backbone: Backbone, folder: Path, **settings: Any) -> Job:
    data, asked = Dataset(folder), Settings.of(settings)
    kind = kind_of(data, asked)
    found = finished(survey(data.rows, kind, backbone.size, asked.fit))
    return job(backbone, data, asked, kind, found, folder / "mine")


# --- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "pfgmpp:128", "pfgmpp:inf"])
def test_the_network_sees_the_noise_of_the_kernel(name: str) -> None:
    """z + sigma s n with one s per image and one seed per image, whatever is in the batch with it."""
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, cond: object) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    z, sigma, seeds, noise = torch.randn(5, 4, 8, 8), torch.tensor([0.1, 1.0, 3.0, 9.0, 0.5]), range(5), kernel(name)
    found = error(model, z, sigma, seeds, noise, [], "edm")
    drawn = (seen[0] - z) / sigma.view(-1, 1, 1, 1)
    # z is of size 1 and is taken off again: float32 leaves 1e-6 of it, over sigma = 0.1
    assert torch.allclose(drawn, noise.noise((4, 8, 8), 1.0, seeds), atol=1e-5)
    assert torch.allclose(found, z.square().flatten(1).mean(1) * weight(sigma, "edm"))
    ratio = noise.noise((4, 8, 8), 1.0, seeds) / kernel("gaussian").noise((4, 8, 8), 1.0, seeds)
    for image, s in zip(ratio, noise.scales(seeds), strict=True):
        assert torch.allclose(image, s.expand_as(image), rtol=1e-4), "one scalar an image"
    if name == "pfgmpp:inf":
        assert torch.equal(noise.noise((4, 8, 8), 1.0, seeds), kernel("gaussian").noise((4, 8, 8), 1.0, seeds))
    alone = error(model, z[3:4], sigma[3:4], [3], noise, [], "edm")
    assert torch.equal(alone, found[3:4])


@pytest.mark.parametrize("folder", ["own", "stable"])
@pytest.mark.parametrize("weighting", ["edm", "min-snr"])
def test_the_loss_is_that_of_diffusers_at_its_timesteps(
    request: pytest.FixtureRequest, folder: str, weighting: str
) -> None:
    """v prediction with EDM weights is the mean squared error of v; min-SNR is diffusers' own recipe for it."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    root = request.getfixturevalue(folder)
    backbone = load(root)
    scheduler = DDPMScheduler.from_pretrained(root / "scheduler")
    t = torch.tensor([20, 300, 640, 900])
    z, cond = torch.randn(4, *backbone.shape), backbone.embed([TEXTS[0]] * 4)
    sigma, noise = backbone.sigmas[t].float(), kernel("gaussian").noise(backbone.shape, 1.0, range(4))
    with torch.no_grad():
        ours = error(backbone.denoise, z, sigma, range(4), kernel("gaussian"), cond, weighting)
        noisy = scheduler.add_noise(z, noise, t)
        extra = {"class_labels": cond.pooled} if folder == "own" else {}
        out = backbone.unet(noisy, t, cond.states, encoder_attention_mask=cond.mask, **extra).sample
    v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(z, noise, t) if v else noise
    plain = (out - target).square().flatten(1).mean(1)
    snr = compute_snr(scheduler, t)
    if weighting == "min-snr":
        theirs = plain * snr.clamp(max=5) / (snr + 1 if v else snr)
    else:
        theirs = plain if v else plain * (snr + 1) / snr
    # float32 through a network, and alphas_cumprod that diffusers keeps in float32
    assert torch.allclose(ours, theirs, rtol=2e-3)


def test_levels_are_log_normal_and_belong_to_their_seed(own: Path) -> None:
    backbone = load(own)
    found = levels(range(4000), backbone).log()
    # Four standard errors of the mean and of the deviation of 4000 draws; the table cuts both ends a little.
    assert abs(float(found.mean()) - 0.2) < 4 * 1.3 / math.sqrt(4000)
    assert abs(float(found.std()) - 1.3) < 4 * 1.3 / math.sqrt(8000) + 0.02
    assert torch.equal(levels([17], backbone), levels(range(20), backbone)[17:18])


def test_a_measurement_repeats_and_sees_the_weights(own: Path, tmp_path: Path) -> None:
    backbone, todo = load(own), job_of(load(own), films(tmp_path / "set"))
    z = finished(latents(backbone, todo.rows, todo.digests, CXR, "crop", tmp_path))

    def now(rows: list[int]) -> torch.Tensor:
        def cond(part: Any) -> Any:
            return backbone.embed([todo.captions.texts[row][0] for row in part])

        return measured(backbone, backbone.denoise, z, rows, kernel("gaussian"), "edm", cond, batch=3)

    first = now([0, 1, 2, 5, 7])
    assert torch.equal(first, now([0, 1, 2, 5, 7])) and torch.allclose(first[2:3], now([2]), rtol=1e-4)
    backbone.unet.conv_out.weight.data += 0.1
    assert not torch.allclose(first, now([0, 1, 2, 5, 7]), rtol=1e-2)


# --- the cache -----------------------------------------------------------------------------------------------------


def test_cached_latents_and_states_are_those_of_the_backbone(own: Path, tmp_path: Path) -> None:
    backbone, data = load(own), Dataset(films(tmp_path / "set"))
    x = torch.stack([load_row(row, CXR, 32) for row in data])
    digests = [str(k) for k in range(len(data))]
    z = finished(latents(backbone, data.rows, digests, CXR, "crop", tmp_path))
    assert len(z) == 14 and torch.allclose(z[[3, 0, 13]], backbone.encode(x[[3, 0, 13]]), atol=1e-5)
    texts = ["", *TEXTS, "Chest radiograph."]
    kept = finished(states(backbone, texts, tmp_path))
    for some in ([TEXTS[1], ""], [TEXTS[0]], texts):
        ours, theirs = kept(some), backbone.embed(some)
        assert torch.equal(ours.mask, theirs.mask) and torch.allclose(ours.pooled, theirs.pooled, atol=1e-5)
        # States of padding are not read: ours are zero there.
        assert torch.allclose(ours.states[ours.mask], theirs.states[theirs.mask], atol=1e-5)
        assert not ours.states[~ours.mask].any()
    with pytest.raises(KeyError):
        kept(["another text"])


def test_what_is_cached_is_not_computed_again_and_what_changed_is(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, data = load(own), Dataset(films(tmp_path / "set"))
    first = finished(survey(data.rows, CXR, 32, "crop", tmp_path))
    finished(latents(backbone, first.rows, first.digests, CXR, "crop", tmp_path))
    calls: list[object] = []
    real = backbone.codec.encode
    monkeypatch.setattr(backbone.codec, "encode", lambda x: calls.append(x) or real(x))
    again = finished(survey(data.rows, CXR, 32, "crop", tmp_path))
    assert again.digests == first.digests and torch.equal(again.thumbs, first.thumbs) and again.rows == first.rows
    assert len([*survey(data.rows, CXR, 32, "crop", tmp_path)]) == 0, "no progress to report"
    finished(latents(backbone, again.rows, again.digests, CXR, "crop", tmp_path))
    assert not calls
    Image.new("L", (32, 32), 80).save(tmp_path / "set" / "3.png")  # nothing on it
    Image.linear_gradient("L").save(tmp_path / "set" / "4.png")
    third = finished(survey(Dataset(tmp_path / "set").rows, CXR, 32, "crop", tmp_path))
    assert third.refused == ((5, "the image shows nothing: every pixel is the same in the window"),)
    assert len(third.rows) == 13 and third.digests[3] != first.digests[4] and third.digests[4] == first.digests[5]
    finished(latents(backbone, third.rows, third.digests, CXR, "crop", tmp_path))
    finished(latents(backbone, third.rows, third.digests, CXR, "letterbox", tmp_path))
    assert len(calls) == 4, "two calls of eight images each, for the new file and for the other fit"


# --- captions ------------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_captions_is_empty_and_half_of_the_others_are_the_reports_own() -> None:
    found = captions(TEXTS, CXR, phrasings=4, drop=0.1, seed=0)
    assert [texts[0] for texts in found.texts] == [Report.parse(text).prompt() for text in TEXTS]
    assert all(2 < len(texts) <= 5 for texts in found.texts)
    drawn = [found.draw(1, number) for number in range(3000)]
    empty, own = drawn.count("") / 3000, drawn.count(found.texts[1][0]) / 3000
    # Four standard errors of shares of 3000.
    assert abs(empty - 0.1) < 4 * math.sqrt(0.09 / 3000) and abs(own - 0.45) < 4 * math.sqrt(0.25 / 3000)
    assert set(drawn) == {"", *found.texts[1]} and drawn == [found.draw(1, number) for number in range(3000)]
    for text in found.texts[1][1:]:
        assert {f.name for f in Report.parse(text).findings} <= {"pleural effusion", "pneumothorax"}


@pytest.mark.parametrize("text", ["Small left pleural effusion.", TEXTS[0], "FINDINGS: Edema. IMPRESSION: Edema."])
def test_training_reads_a_report_as_generation_does(own: Path, text: str) -> None:
    found = captions([text], CXR, phrasings=0, drop=0, seed=0)
    assert found.texts[0] == (plan(load(own), text).prompt,)


def test_a_report_whose_findings_are_unknown_is_not_composed() -> None:
    found = captions(["Breast ultrasound. Lactating adenoma."], modality("us"), phrasings=8, drop=0, seed=0)
    assert found.texts == (("Breast ultrasound. Lactating adenoma.",),)


# --- the job -------------------------------------------------------------------------------------------------------


def test_no_patient_is_on_both_sides_and_each_weighs_the_same(own: Path, tmp_path: Path) -> None:
    todo = job_of(load(own), films(tmp_path / "set", 40), held_out=0.3)
    sides = [{todo.rows[k].patient for k in part} for part in (todo.train, todo.test)]
    assert sides[1] and not sides[0] & sides[1] and sorted(todo.train + todo.test) == list(range(40))
    patients = len(todo.patients)
    one, two = ([todo.row(number) for number in range(k * patients, (k + 1) * patients)] for k in (0, 1))
    for turn in (one, two):
        assert len({todo.rows[k].patient for k in turn}) == patients, "every patient once in a round"
    assert {*one, *two} == set(todo.train) and one != two, "and the images of a patient take turns"
    assert [todo.row(number) for number in (5, 3)] == [one[5], one[3]]


def test_one_patient_is_held_out_where_the_share_would_leave_none(own: Path, tmp_path: Path) -> None:
    assert len(job_of(load(own), films(tmp_path / "set", 6), held_out=0.001).test) == 2
    none = job_of(load(own), films(tmp_path / "set", 6), held_out=0)
    assert not none.test and any("nothing is held out" in note for note in none.notes)
    alone = job_of(load(own), films(tmp_path / "one", 4, names=["p"] * 4))
    assert not alone.test and len(alone.train) == 4


def test_a_picture_that_is_there_twice_is_named_and_joins_its_patients(own: Path, tmp_path: Path) -> None:
    import shutil

    folder = films(tmp_path / "set", 20)
    shutil.copy(folder / "0.png", folder / "9.png")
    Image.open(folder / "2.png").convert("RGB").save(folder / "13.png")  # other bytes, the same picture
    todo = job_of(load(own), folder, held_out=0.4)
    assert todo.copies == ((2, 11), (4, 15))
    assert any("2 pairs of images are one picture: lines 2 and 11, 4 and 15" in note for note in todo.notes)
    for i, j in ((0, 9), (2, 13)):
        assert todo.rows[i].patient == todo.rows[j].patient and (i in todo.train) == (j in todo.train)
    stated = job_of(load(own), folder, split="column")
    assert stated.test == (0, 1, 2, 3)
    assert any("2 pictures are on both sides of the split, the first in lines 2 and 11" in n for n in stated.notes)


def test_a_patient_on_both_sides_of_a_stated_split_is_an_error(own: Path, tmp_path: Path) -> None:
    folder = films(tmp_path / "set", names=["a", "b", "c", "d", "b", *map(str, range(9))])
    with pytest.raises(ValueError, match=r"lines 3 and 6 are of one patient on both sides of the split") as caught:
        job_of(load(own), folder, split="column")
    assert "b'" not in str(caught.value)
    (folder / "metadata.csv").write_text("file_name,text,split\n0.png,Normal.,train\n1.png,Normal.,perhaps\n")
    with pytest.raises(ValueError, match="line 3: its column split says neither train nor test"):
        job_of(load(own), folder, split="column", modality="cxr")


def test_the_modality_is_what_all_reports_name(own: Path, tmp_path: Path) -> None:
    assert job_of(load(own), films(tmp_path / "a")).kind.name == "cxr"
    for texts, said in ((("Normal.",), "the reports name none"), ((TEXTS[0], "Brain MRI. No tumor."), "cxr and mri")):
        with pytest.raises(ValueError, match=said):
            job_of(load(own), films(tmp_path / "b", texts=texts))
    mixed = job_of(load(own), films(tmp_path / "b", texts=(TEXTS[0], "Brain MRI. No tumor.")), modality="cxr")
    assert any("name another modality than cxr: mri" in note for note in mixed.notes)
    pet = job_of(load(own), films(tmp_path / "b", texts=("Normal.",)), modality="pet")
    assert any("tiny does not make PET: the adapter brings it" in note for note in pet.notes)
    assert Settings(epochs=3.0, batch=4).resolved(name="x", images=10).steps == 8


def test_too_many_bad_rows_are_an_error_that_names_them(own: Path, tmp_path: Path) -> None:
    folder = films(tmp_path / "set")
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with open(folder / "metadata.csv", "a") as file:
        file.write("none.png,p,text,train\n")
    lines = list(outline(load(own), Dataset(folder), out=tmp_path / "mine", max_bad=1, batch=4))
    assert any("refused 2 of at most 1" in line for line in lines) and any("would stop here" in line for line in lines)
    assert any("1 refused: no such file (line 16)" in line for line in lines)
    assert any("1 refused: not a readable image file" in line and "(line 7)" in line for line in lines)
    from vlgen.train.tune import train

    with pytest.raises(
        ValueError, match=r"2 rows cannot be used, and at most 1 may be \(line 16: no such file; line 7"
    ):
        list(train(load(own), Dataset(folder), out=tmp_path / "mine", max_bad=1))


def test_the_outline_says_it_all_and_writes_nothing(own: Path, tmp_path: Path) -> None:
    folder, backbone = films(tmp_path / "set"), load(own)
    bare = backbone.probe()
    text = "\n".join(outline(backbone, Dataset(folder), out=tmp_path / "mine", steps=30, batch=4, rank=2, mixed="no"))
    for said in ("adapter mine in", "model tiny", "kernel gaussian", "32 pixels, crop", "patients", "held out",
                 "refused 0", "tokens", "trained of", "attention, rank 2, alpha 2", "30 of 4 images", "float32",
                 "memory: about", "min of steps"):  # fmt: skip
        assert said in text, said
    trained = sum(p.numel() for name, p in load_lora(own) if "lora" in name)
    assert f"parameters: {trained:,} trained of" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert torch.equal(backbone.probe(), bare) and not backbone.carried


def load_lora(own: Path) -> list[tuple[str, torch.nn.Parameter]]:
    from peft import LoraConfig

    unet = load(own).unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    return list(unet.named_parameters())


# --- the audit, the layout, the clock ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_out", "seen", "said"),
    [
        ([-0.3, -0.31, -0.29, -0.3], [-0.3, -0.3, -0.31, -0.29], "more than these images"),
        ([0.2, 0.21, 0.19, 0.2], [-0.5, -0.5, -0.5, -0.51], "it memorized"),
        ([-0.05, -0.06, -0.05, -0.04], [-0.5, -0.5, -0.5, -0.51], "much of what it learned, it memorized"),
        ([-0.01, 0.01, 0.012, -0.012], [-0.01, 0.01, -0.012, 0.012], "hardly changed"),
        ([-4e-4, -4.1e-4, -3.9e-4, -4e-4], [-4e-4, -4.1e-4, -3.9e-4, -4e-4], "hardly changed"),
        ([4e-4, 4.1e-4, 3.9e-4, 4e-4], [-4e-4, -4.1e-4, -3.9e-4, -4e-4], "hardly changed"),
        ([0.2, 0.21, 0.19, 0.2], [0.2, 0.19, 0.21, 0.2], "it learned nothing"),
        ([], [-0.1, -0.2], "Nothing was held out"),
    ],
)
def test_the_audit_says_plainly_what_happened(held_out: list[float], seen: list[float], said: str) -> None:
    before = Losses([1.0] * len(held_out), [1.0] * len(seen))
    found = audit(before, Losses([1 + d for d in held_out], [1 + d for d in seen]))
    assert said in found["in words"]
    assert found["training loss"]["n"] == len(seen)


def test_an_image_that_was_trained_on_is_told_by_its_loss() -> None:
    """Of 40 seen and 40 unseen images whose losses differ a thousandfold, the seen ones fall by a little more."""
    g = torch.Generator().manual_seed(0)
    before = [float(x) for x in torch.rand(80, generator=g) * 1000]
    after = [x - (0.2 if k < 40 else 0.1) for k, x in enumerate(before)]
    found = audit(Losses(before[40:], before[:40]), Losses(after[40:], after[:40]))
    area = found["membership inference, AUC"]
    assert area["after"] == 1.0 and area["low"] > 0.9 and area["n"] == 40 and area["beside"] == 0.5
    assert "AUC of 1.00" in found["in words"]
    alike = [x - 0.1 * float(y) for x, y in zip(before, torch.rand(80, generator=g), strict=True)]
    blind = audit(Losses(before[40:], before[:40]), Losses(alike[40:], alike[:40]))
    assert blind["membership inference, AUC"]["low"] < 0.5 and "AUC" not in blind["in words"]
    assert "membership inference, AUC" not in audit(Losses([1.0] * 9, [1.0] * 40), Losses([0.9] * 9, [0.9] * 40))


def real(held_out: torch.Tensor, train: torch.Tensor, answers: Sequence[str]) -> Real:
    known = collection([*answers], [{}] * len(answers), [str(k) for k in range(len(answers))], "us")
    return Real(held_out, train, replace(known, features={FEATURES: torch.cat([held_out, train])}))


def test_images_nearer_to_training_images_than_to_others_are_found() -> None:
    """Copies of training images with a little noise, and then draws of the same law: ratio, copies, distances."""
    g = torch.Generator().manual_seed(0)
    held_out, train, other = (torch.randn(120, 6, generator=g) for _ in range(3))
    texts = ["Breast ultrasound. Malignant mass." if k % 2 else "Breast ultrasound. Benign mass." for k in range(240)]
    beside = real(held_out, train, texts)
    copied = train[:60] + 0.001 * torch.randn(60, 6, generator=g)
    found = pictures(0, other[:60], copied, texts[:60], beside)
    ratio, count = found["nearest-neighbor ratio, median"], found["copies"]
    assert ratio["after"] < 0.05 and 0.8 < ratio["before"] < 1.25
    assert count["after"] == 60 and count["before"] <= 3 and count["beside"] == pytest.approx(0.6)
    distance = found["Frechet distance to held-out images"]
    assert distance["n"] == 60 and 0.3 < distance["before"] / distance["beside"] < 3
    assert "it memorized" in sentences(found) and "it memorized" not in sentences(
        pictures(0, other[:60], other[60:], texts[:60], beside)
    )
    far = pictures(0, other[:60] + 9, other[60:], texts[:60], beside)["kernel distance to held-out images"]
    assert far["before"] > 100 * abs(far["after"])


def test_a_judge_that_learned_on_real_images_reads_what_was_asked_for() -> None:
    """The first feature tells benign from malignant; the images of the base ignore it, those of the adapter obey."""
    g = torch.Generator().manual_seed(0)
    kinds = [k % 2 for k in range(160)]
    texts = [f"Breast ultrasound. {('Benign', 'Malignant')[k]} mass." for k in kinds]
    x = torch.randn(160, 6, generator=g)
    x[:, 0] += 6 * torch.tensor(kinds)
    asked = [k // 20 for k in range(40)]
    words = [f"Breast ultrasound. {('Benign', 'Malignant')[k]} mass." for k in asked]
    before, after = torch.randn(40, 6, generator=g), torch.randn(40, 6, generator=g)
    after[:, 0] += 6 * torch.tensor(asked)
    found = pictures(0, before, after, words, real(x[:80], x[80:], texts))
    (judge,) = [figures for name, figures in found.items() if "judge" in name]
    assert judge["after"] > 0.97 and 0.2 < judge["before"] < 0.8 and judge["beside"] > 0.97 and judge["n"] == 40


def test_too_few_images_have_no_distance(own: Path) -> None:
    g = torch.Generator().manual_seed(0)
    few = real(torch.randn(9, 6, generator=g), torch.randn(50, 6, generator=g), ["Breast ultrasound. Normal."] * 59)
    assert pictures(0, None, torch.randn(20, 6, generator=g), ["Breast ultrasound. Normal."] * 20, few) == {}


@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_the_layout_of_a_step_changes_speed_alone(own: Path, mixed: str) -> None:
    backbone = load(own)
    z, sigma, cond = torch.randn(2, *backbone.shape), torch.tensor([0.5, 2.0]), backbone.embed(list(TEXTS))
    inside = partial(torch.autocast, "cpu", torch.bfloat16, enabled=mixed == "bf16")
    with torch.no_grad():
        before = backbone.denoise(z, sigma, cond)
        with inside():
            plain = backbone.denoise(z, sigma, cond)
        with arranged(backbone, mixed), inside():
            quick = backbone.denoise(z, sigma, cond)
        after = backbone.denoise(z, sigma, cond)
    # Another order of sums, through a network whose values are of size 1: in float32, or in bfloat16's eight bits.
    assert torch.allclose(plain, quick, atol=1e-5 if mixed == "no" else 2**-5) and torch.equal(before, after)
    assert (mixed == "no") == torch.equal(before, plain)


def test_the_clock_runs_all_steps_and_leaves_nothing(own: Path, stable: Path) -> None:
    for folder in (own, stable):
        found = train_step_timing(str(folder), batch=2, rank=2, repeats=1, mixed="bf16")
        assert list(found) == ["vlgen", "script", "script, cached", "script, bf16", "script, cached, bf16"]
        assert all(row["cpu_s"] > 0 and row["ratio"] > 0 for row in found.values()) and found["vlgen"]["ratio"] == 1


def test_every_draw_has_words_of_its_own() -> None:
    assert len({counter(0, "draw", k) for k in range(1000)}) == 1000


def test_patients_that_were_all_held_out_once_are_held_out_again(tmp_path: Path) -> None:
    """Under one seed the split of a held-out part is that part: nothing is left to train on, and the reason is said."""
    from vlgen.dataset import Row, split

    rows = [Row(tmp_path / f"{k}.png", "", f"p{k}", "", {}, k) for k in range(60)]
    held_out = split(rows, {"train": 0.9, "test": 0.1}, 0)["test"]
    assert held_out and split(held_out, {"train": 0.9, "test": 0.1}, 0)["train"] == ()
    assert split(held_out, {"train": 0.9, "test": 0.1}, 1)["train"] != ()
