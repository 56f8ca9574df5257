"""Generate: plans that say everything, seeds that stand for one image, and refusals in one sentence."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest
import torch

import vlgen
from vlgen.backbone import Backbone
from vlgen.generate import contact, illustrate, sample
from vlgen.plan import again, digest, plan, ranges
from vlgen.schedules import SCHEDULES

TEXT = "AP chest radiograph. Large left pleural effusion."
# One image alone against in a batch: float32 sums in another order. 2e-6 was seen; other processors sum otherwise.
BATCH = 1e-4


@pytest.fixture(scope="module")
def backbone(own: Path) -> Backbone:
    return vlgen.load(own)


def test_images_do_not_depend_on_their_batch(backbone: Backbone) -> None:
    four = vlgen.generate(backbone, TEXT, seeds=range(4))
    for k in range(4):
        alone = vlgen.generate(backbone, TEXT, seeds=[k])
        assert torch.allclose(four[k], alone[0], atol=BATCH)
    assert not torch.allclose(four[0], four[1], atol=0.02), "seeds must differ"


def test_exact_is_exact(backbone: Backbone) -> None:
    some = vlgen.generate(backbone, TEXT, seeds=[2, 0], exact=True)
    more = vlgen.generate(backbone, TEXT, seeds=range(5), exact=True)
    assert torch.equal(some[0], more[2]) and torch.equal(some[1], more[0])


@pytest.mark.parametrize("solver", ["euler", "ddim", "ddim:0.5", "heun", "dpmpp_2m"])
def test_every_solver_and_the_promised_nfe(backbone: Backbone, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = backbone.unet.forward
    monkeypatch.setattr(backbone.unet, "forward", lambda x, *a, **k: (calls.append(len(x)), forward(x, *a, **k))[1])
    for scale in (1.0, 2.0):
        calls.clear()
        todo = plan(backbone, TEXT, seeds=[0], solver_name=solver, steps=4, guidance_scale=scale)
        *_, last = sample(backbone, todo)
        assert sum(calls) == todo.nfe
        assert last.finished is not None and bool(last.finished.pixels.isfinite().all())


def test_nfe_counts_the_guidance_interval(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = backbone.unet.forward
    monkeypatch.setattr(backbone.unet, "forward", lambda x, *a, **k: (calls.append(len(x)), forward(x, *a, **k))[1])
    monkeypatch.setattr(backbone, "defaults", {**backbone.defaults, "guidance_interval": [0.3, 5.0]})
    for solver in ("dpmpp_2m", "heun"):
        calls.clear()
        todo = plan(backbone, TEXT, seeds=[0], solver_name=solver, steps=9)
        list(sample(backbone, todo))
        assert sum(calls) == todo.nfe


def test_provenance_holds_everything_and_remakes_the_pixels(backbone: Backbone, tmp_path: Path) -> None:
    images = vlgen.generate(backbone, TEXT, seeds=[7], solver="heun", steps=3, guidance_scale=1.5, negative="No mass.")
    path = vlgen.write(images, tmp_path)[0]
    found = vlgen.info(path)
    assert found["report_sha256"] == digest(TEXT) and "report" not in found and "negative" not in found
    assert TEXT.split()[-1] not in path.read_bytes().decode("latin-1")
    again = vlgen.generate(
        backbone,
        TEXT,
        seeds=[found["seed"]],
        solver=found["solver"],
        steps=found["steps"],
        schedule=found["schedule"],
        kernel=found["kernel"],
        guidance_scale=found["guidance_scale"],
        negative="No mass.",
    )
    assert torch.equal(again.pixels, images.pixels)


def test_the_command_that_info_gives_remakes_the_file(backbone: Backbone, tmp_path: Path) -> None:
    from vlgen.cli import main

    weird = 'Chest radiograph with "quotes", `id`, $HOME and a\nnew line.'
    for exact in (True, False):
        images = vlgen.generate(
            backbone,
            weird,
            seeds=[3, 4],
            solver="ddim:0.5",
            guidance_scale=1.23456789,
            negative="No mass.",
            exact=exact,
        )
        paths = vlgen.write(images, tmp_path / f"a{exact}", keep_report=True)
        command = shlex.split(again(vlgen.info(paths[1])))
        with pytest.raises(SystemExit) as caught:
            main([*command[1:], "--out", str(tmp_path / f"b{exact}"), "--keep-report"])
        assert not caught.value.code
        assert (tmp_path / f"b{exact}" / paths[1].name).read_bytes() == paths[1].read_bytes()


def test_again_trusts_no_field() -> None:
    assert again_of(seed="1; touch X #") is None
    assert again_of(model_source="x; touch X") == "x; touch X"
    with pytest.raises(ValueError, match="does not say"):
        again({"seed": 1})


def again_of(**changes: object) -> str | None:
    """The --model that a shell would read of the command for a changed record, None where there is no command."""
    record = {"model_source": "mini", "adapters": {}, "exact": True, "seed": 1, "batch_seeds": [1], "steps": 2}
    record |= {"solver": "heun", "schedule": "karras", "kernel": "gaussian", "guidance_scale": 2.0}
    try:
        words = shlex.split(again(record | {"negative_sha256": digest("")} | changes))
    except ValueError:
        return None
    return words[words.index("--model") + 1]


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_schedule_runs(backbone: Backbone, schedule: str) -> None:
    images = vlgen.generate(backbone, TEXT, seeds=[0], schedule=schedule, steps=4)
    assert bool(images.pixels.isfinite().all())


def test_a_long_negative_text_is_said_to_be_cut(backbone: Backbone) -> None:
    todo = plan(backbone, TEXT, negative=" ".join(f"No mass number {k}." for k in range(200)))
    assert any("negative text is longer" in note for note in todo.notes)


def test_a_kernel_at_infinite_d_is_the_gaussian_bit_for_bit(backbone: Backbone) -> None:
    gaussian = vlgen.generate(backbone, TEXT, seeds=[1])
    assert torch.equal(vlgen.generate(backbone, TEXT, seeds=[1], kernel="pfgmpp:inf").pixels, gaussian.pixels)
    assert not torch.equal(vlgen.generate(backbone, TEXT, seeds=[1], kernel="pfgmpp:128").pixels, gaussian.pixels)


def test_notes_say_what_the_user_should_know(backbone: Backbone) -> None:
    assert "trained under gaussian" in plan(backbone, TEXT, kernel_name="pfgmpp:128").notes[0]
    assert plan(backbone, TEXT).notes == ()
    assumed = plan(backbone, "Glioma.")
    assert assumed.modality.name == "mri" and assumed.prompt.startswith("Brain MRI.")
    assert "names no modality" in assumed.notes[0]
    assert plan(backbone, "Brain, enhancing lesion.").modality.name == "mri", "the part of the body decides first"
    long = plan(backbone, " ".join(f"Chest radiograph number {i}." for i in range(200)))
    assert long.tokens.dropped > 0 and any(str(long.tokens.dropped) in note for note in long.notes)
    assert any("not English" in note for note in plan(backbone, "Chest radiograph. Πνευμονία.").notes)


def test_ct_comes_in_hounsfield_units(backbone: Backbone) -> None:
    images = vlgen.generate(backbone, "Axial chest CT with contrast.", seeds=[0])
    low, high = images.modality.window
    assert images.modality.unit == "HU" and float(images.pixels.min()) >= low and float(images.pixels.max()) <= high
    assert float(images.pixels.max() - images.pixels.min()) > 2, "not a picture in [-1, 1]"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"report": ""}, "is empty"),
        ({"report": " \n "}, "is empty"),
        ({"report": "x" * 2_000_000}, "2,000,000 characters"),
        ({"report": "胸部"}, "no English word"),
        ({"report": "🫁🫁"}, "no English word"),
        ({"report": 5}, "is a int"),
        ({"report": "FDG PET of the chest."}, "makes chest radiograph"),
        ({"seeds": []}, "0 seeds"),
        ({"seeds": [-1]}, "seed -1"),
        ({"seeds": [1.5]}, "seed 1.5"),
        ({"seeds": [True]}, "seed True"),
        ({"seeds": range(20_000)}, "20,000 seeds"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": 100_000}, "steps is 100000"),
        ({"guidance_scale": math.nan}, "guidance scale nan"),
        ({"guidance_scale": -1.0}, "guidance scale -1"),
        ({"solver": "magic"}, "solver 'magic' is unknown"),
        ({"solver": "ddim:7"}, "eta = 7"),
        ({"kernel": "poisson"}, "kernel 'poisson' is unknown"),
        ({"kernel": "pfgmpp:2"}, "D = 2"),
        ({"kernel": "pfgmpp:128", "solver": "ddim:1"}, "deterministic"),
        ({"schedule": "cosine"}, "cosine"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(backbone: Backbone, changes: dict, said: str) -> None:
    call = {"report": TEXT, "seeds": [0]} | changes
    with pytest.raises(ValueError, match=said) as caught:
        vlgen.generate(backbone, call.pop("report"), **call)
    assert "\n" not in str(caught.value)


def test_stopping_keeps_what_is_finished(backbone: Backbone) -> None:
    done = []
    for progress in sample(backbone, plan(backbone, TEXT, seeds=range(6)), batch=2):
        if progress.finished:
            done.append(progress.finished)
        if len(done) == 2:
            break
    assert [record["seed"] for part in done for record in part.provenance] == [0, 1, 2, 3]
    assert not torch.is_inference_mode_enabled(), "the caller's mode is its own"


def test_reports_share_a_batch_and_each_gets_its_own_image(backbone: Backbone) -> None:
    """An image of a mixed batch is the one that `generate` makes of the same report and seed."""
    reports = [TEXT, "Brain MRI. No tumor.", "Chest radiograph of a child."]
    found = dict(illustrate(backbone, reports, seeds=[3, 4, 5], batch=3))
    assert sorted(found) == [0, 1, 2] and found[1].modality.name == "mri"
    for k, report in enumerate(reports):
        alone = vlgen.generate(backbone, report, seeds=[3 + k])
        assert (found[k].pixels - alone.pixels).abs().max() < 1e-4
        assert found[k].provenance[0]["batch_seeds"] == [3, 4, 5]
    with pytest.raises(ValueError, match="report 2 of 2"):
        list(illustrate(backbone, [TEXT, ""], seeds=[0, 1]))
    with pytest.raises(ValueError, match="2 reports and 1 seeds"):
        list(illustrate(backbone, [TEXT, TEXT], seeds=[0]))


def test_a_sheet_shows_consecutive_seeds_and_says_it_is_synthetic(backbone: Backbone, tmp_path: Path) -> None:
    path = contact(backbone, [TEXT, "Brain MRI. No tumor."], [4, 5, 6], tmp_path / "sheet.png", size=32)
    found = vlgen.info(path)
    assert found["synthetic"] and [record["seed"] for record in found["sheet"]] == [4, 5, 6, 4, 5, 6]


def test_ranges() -> None:
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"
