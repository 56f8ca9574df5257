"""Hijack: exact posterior means and paths, levels that are the noise's own, and refusals in one sentence."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import Mixture
from torch import Tensor

import vlgen
from vlgen.backbone import Backbone
from vlgen.cli import main
from vlgen.hijack import course, levels, noise_of, remove, sigma_of
from vlgen.images import Images, fit
from vlgen.metrics.image import psnr
from vlgen.modality import MODALITIES
from vlgen.solvers import solver
from vlgen.tensors import normal

CXR, CT = MODALITIES["cxr"], MODALITIES["ct"]
TABLE = torch.linspace(0.01, 80, 100, dtype=torch.float64)
ONE = Mixture(
    torch.ones(1).double(), torch.tensor([[1.0, -2.0, 0.5, 0.0]]).double().reshape(1, 1, 2, 2), torch.ones(1).double()
)


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def backbone(own: Path) -> Backbone:
    return vlgen.load(own, precision="float32")


def ramp(size: int = 32) -> Tensor:
    """A smooth image (1, size, size) in [0.2, 0.8]."""
    line = torch.linspace(0.2, 0.8, size)
    return (line[:, None] + line[None]).div(2)[None]


def noisy(count: int = 3, size: int = 32, noise: float = 0.05) -> Tensor:
    return ramp(size) + noise * normal((1, size, size), range(100, 100 + count))


# The walk, on data whose posterior is known.


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_one_step_is_the_posterior_mean(sigma: float) -> None:
    z = ONE.noisy(20, sigma, 0)
    found = remove(ONE.denoiser(), z, levels(sigma, 1, TABLE), solver("euler"))
    mean = ONE.means[0]  # prior N(mean, I): the posterior mean is the average by inverse variances
    torch.testing.assert_close(
        found, (mean * sigma**2 + z) / (1 + sigma**2), rtol=1e-6, atol=1e-6
    )  # levels are float32


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_more_steps_come_to_the_paths_end(sigma: float) -> None:
    """For a prior N(mean, I) the ODE keeps (z - mean) / sqrt(1 + sigma^2), whatever the sigma."""
    z = ONE.noisy(20, sigma, 0)
    end = ONE.means[0] + (z - ONE.means[0]) / math.sqrt(1 + sigma**2)
    missed = [
        float((remove(ONE.denoiser(), z, levels(sigma, n, TABLE), solver("euler")) - end).norm()) for n in (1, 2, 4, 8)
    ]
    assert all(after < 0.75 * before for before, after in pairwise(missed)), missed
    heun = remove(ONE.denoiser(), z, levels(sigma, 8, TABLE), solver("heun"))
    assert float((heun - end).norm()) < 0.25 * missed[-1], "of second order, but for the last step"


def test_under_pfgmpp_the_denoiser_of_its_D_is_the_best_and_sigma_is_sigma() -> None:
    clean, z = ONE.sample(4000, 3)[0], ONE.noisy(4000, 1.0, 3, D=8)
    error = {}
    for D in (8.0, math.inf):
        told = ONE.denoiser(D, nodes=60)
        error[D] = float((remove(told, z, levels(1.0, 1, TABLE), solver("euler")) - clean).square().mean())
    assert error[8.0] < 0.99 * error[math.inf]
    for off in (0.8, 1.25):  # another sigma than that of the noise is worse
        other = remove(ONE.denoiser(8.0, nodes=60), z, levels(off, 1, TABLE), solver("euler"))
        assert float((other - clean).square().mean()) > error[8.0]


@pytest.mark.parametrize("steps", range(1, 9))
def test_levels_begin_at_the_noise_and_stay_where_the_model_was_trained(steps: int) -> None:
    for sigma in (0.011, 0.3, 80.0):
        found = levels(sigma, steps, TABLE)
        assert found.shape == (steps + 1,) and float(found[0]) == pytest.approx(sigma) and float(found[-1]) == 0
        assert bool((found.diff() < 0).all()) and float(found[-2]) >= 0.01 * (1 - 1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 81.0, math.nan, math.inf, -1.0])
def test_levels_that_the_model_does_not_know_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"knows 0.01 to 80"):
        levels(sigma, 1, TABLE)


# The noise of an image.


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_white_noise_is_measured(noise: float) -> None:
    for x in (ramp(256), (ramp(256) > 0.5).float()):  # what is linear leaves nothing, and one edge next to nothing
        given = x + noise * normal((1, 256, 256), [1])[0]
        # of a median of 64,000 values, in part dependent: 1 % is three standard errors; an edge adds its windows
        assert noise_of(given) == pytest.approx(noise, rel=0.02)
        assert noise_of(3000 * given - 1000) == pytest.approx(3000 * noise_of(given), rel=1e-3)


def test_noise_is_measured_where_half_of_the_image_is_cut_off() -> None:
    x = torch.cat([torch.zeros(1, 128, 256), ramp(256)[:, :128] + 0.1], 1)
    given = (x + 0.03 * normal((1, 256, 256), [1])[0]).clamp(0, 1)
    assert noise_of(given) == pytest.approx(0.03, rel=0.03)


@pytest.mark.parametrize("x", [torch.zeros(1, 32, 32), ramp(8)[:, :2], ramp(4), torch.zeros(1, 1, 1)])
def test_an_image_without_noise_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="no noise was found"):
        noise_of(x)


def test_the_level_is_what_noise_does_to_the_latent(backbone: Backbone) -> None:
    x = noisy(1)[0]
    small = sigma_of(backbone, x, CXR, 1e-3)
    assert sigma_of(backbone, x, CXR, 2e-3) == pytest.approx(2 * small, rel=0.02), "linear while it is small"
    drawn = [
        backbone.encode(CXR.encode(x[None] + 0.05 * normal(x.shape, [k]))) - backbone.encode(CXR.encode(x[None]))
        for k in range(200, 220)
    ]
    exact = float(torch.cat(drawn).square().mean().sqrt())
    # one draw of 256 latent values against 20: some 5 % by chance
    assert sigma_of(backbone, x, CXR, 0.05) == pytest.approx(exact, rel=0.15)
    assert sigma_of(backbone, CT.decode(CXR.encode(x)), CT, 0.05 * 1500) == pytest.approx(
        sigma_of(backbone, x, CXR, 0.05), rel=1e-3
    ), "the unit does not matter"


def test_noise_of_a_larger_image_is_that_of_its_own_pixels(backbone: Backbone) -> None:
    x = noisy(1, size=128)[0]
    assert sigma_of(backbone, x, CXR, 0.05) < 0.5 * sigma_of(backbone, fit(x, 32), CXR, 0.05), "resizing removes noise"


# The whole.


def test_one_step_by_hand(backbone: Backbone) -> None:
    x = noisy(1)
    found = vlgen.denoise(backbone, x, "Chest radiograph. Effusion.", noise=0.05)
    with torch.inference_mode():
        sigma = torch.tensor(sigma_of(backbone, x[0], CXR, 0.05))
        cond = backbone.embed([course(backbone, "Chest radiograph. Effusion.").prompt])
        by_hand = backbone.decode(backbone.denoise(backbone.encode(CXR.encode(x)), sigma, cond))
    # the same sums in the same order, but for the level that was rounded to float32 on its way
    torch.testing.assert_close(found.pixels, CXR.decode(by_hand.clamp(-1, 1)), rtol=0, atol=1e-5)
    assert found.pixels.shape == (1, 1, 32, 32) and not found.pixels.is_inference()
    told = found.provenance[0]
    assert told["noise"] == 0.05 and told["sigma_max"] == pytest.approx(float(sigma)) and told["nfe"] == 1
    assert told["kernel"] == "gaussian" and told["weight"] == 1 and told["job"] == "denoise" and "seed" not in told


def test_the_weight_mixes_in_pixels(backbone: Backbone) -> None:
    x = 5 * noisy(2) - 2  # beyond the window, which the input keeps
    ends = [vlgen.denoise(backbone, x, kind="cxr", weight=w, noise=0.1).pixels for w in (0.0, 0.25, 1.0)]
    assert torch.equal(ends[0], x), "0 is the image itself"
    torch.testing.assert_close(ends[1], 0.75 * x + 0.25 * ends[2], rtol=1e-5, atol=1e-5)
    assert float(ends[2].min()) >= 0 and float(ends[2].max()) <= 1
    large = noisy(1, size=64)
    assert torch.equal(vlgen.denoise(backbone, large, kind="cxr", weight=0).pixels[0], fit(large[0], 32))


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 3, "solver": "dpmpp_2m"}, {"steps": 2, "solver": "ddpm", "seed": 4}]
)
def test_an_image_does_not_depend_on_its_batch(backbone: Backbone, settings: dict[str, object]) -> None:
    x = torch.cat([noisy(2), noisy(1, noise=0.2)])
    batch = vlgen.denoise(backbone, x, kind="cxr", **settings)  # type: ignore[arg-type]
    for k in range(3):
        alone = vlgen.denoise(backbone, x[k], kind="cxr", **settings)  # type: ignore[arg-type]
        assert torch.equal(alone[0], batch[k]) and alone.provenance[0] == batch.provenance[k]
    sigmas = [float(str(record["sigma_max"])) for record in batch.provenance]
    assert sigmas[2] > 1.5 * max(sigmas[:2]), "each has the level of its own noise"


def test_guidance_report_kernel_and_steps_are_heard(backbone: Backbone) -> None:
    x, text = noisy(1), "Chest radiograph. Large left pleural effusion."
    base = vlgen.denoise(backbone, x, text, sigma=2.0).pixels
    for other in (
        vlgen.denoise(backbone, x, "Chest radiograph. No pneumothorax.", sigma=2.0),
        vlgen.denoise(backbone, x, text, sigma=2.0, guidance_scale=3),
        vlgen.denoise(backbone, x, text, sigma=2.0, steps=4),
        vlgen.denoise(backbone, x, text, sigma=1.0),
    ):
        assert not torch.allclose(other.pixels, base, atol=1e-4)
    same = vlgen.denoise(backbone, x, text, sigma=2.0, kernel="pfgmpp:128")
    assert torch.equal(same.pixels, base), "PFGM++ changes the weights that are wanted, not the walk"
    assert same.provenance[0]["kernel"] == "pfgmpp:128" and same.provenance[0]["noise"] is None
    assert any("pfgmpp:128" in note for note in course(backbone, text, kernel="pfgmpp:128").notes)


def test_images_keep_their_unit_and_are_marked(backbone: Backbone, tmp_path: Path) -> None:
    x = CT.decode(CXR.encode(noisy(2)))
    found = vlgen.denoise(backbone, Images(x, CT, ({}, {})), noise=75.0, steps=2)
    assert found.modality == CT and float(found.pixels.min()) >= -1000 and float(found.pixels.max()) <= 500
    for format in ("png", "npy", "dicom"):
        paths = vlgen.write(found, tmp_path / format, format=format)
        assert len(set(paths)) == 2 and paths == vlgen.write(found, tmp_path / format, format=format)
        told = vlgen.info(paths[0])
        assert told["synthetic"] is True and told["unit"] == "HU" and told["noise"] == 75 and "report" not in told
        assert len(told["sigmas"]) == 3 and len(told["input_sha256"]) == 64 and told["schedule"] == "hijack"


def test_the_modality_comes_from_wherever_it_is_said(backbone: Backbone) -> None:
    assert course(backbone, "Brain MRI. Glioma.").modality.name == "mri"
    assert course(backbone, "Glioma.", CXR).prompt.startswith("Chest radiograph. ")
    assert course(backbone, "", MODALITIES["us"]).prompt.startswith("Breast ultrasound")
    with pytest.raises(ValueError, match="what kind of image"):
        course(backbone, "Glioma.")
    with pytest.raises(ValueError, match="report says brain MRI, the images are chest radiograph"):
        course(backbone, "Brain MRI.", CXR)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "1 to 8"),
        ({"steps": 9}, "1 to 8"),
        ({"steps": 2.0}, "1 to 8"),
        ({"weight": 1.1}, "weight 1.1"),
        ({"weight": math.nan}, "weight nan"),
        ({"noise": 0.0}, "noise 0.0"),
        ({"noise": math.nan}, "noise nan"),
        ({"noise": -1.0}, "above 0"),
        ({"noise": 0.1, "sigma": 1.0}, "both"),
        ({"sigma": 1e-4}, "the model knows"),
        ({"sigma": math.nan}, "the model knows"),
        ({"noise": 1e-9}, "the model knows"),
        ({"solver": "ddpm", "kernel": "pfgmpp:128"}, "erases"),
        ({"kind": "mr"}, "unknown modality"),
        ({"guidance_scale": -1}, "guidance scale"),
    ],
)
def test_what_cannot_be_done_is_refused(backbone: Backbone, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vlgen.denoise(backbone, noisy(1), **({"kind": "cxr"} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "x", [torch.zeros(32, 32), torch.zeros(1, 3, 32, 32), torch.zeros(0, 1, 32, 32), noisy(2) / torch.zeros(1)]
)
def test_what_is_no_image_is_refused(backbone: Backbone, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"give at least one, \(B, 1, H, W\)|2 of 2 images"):
        vlgen.denoise(backbone, x, kind="cxr", noise=0.1)
    with pytest.raises(ValueError, match="'mri' was given"):
        vlgen.denoise(backbone, Images(noisy(1), CXR, ({},)), kind="mri")


def test_a_codec_of_three_channels_denoises_too(stable: Path) -> None:
    found = vlgen.denoise(vlgen.load(stable), noisy(1, size=40), kind="mri", steps=2, sigma=0.5)
    assert found.pixels.shape[-1] == vlgen.load(stable).size and bool(found.pixels.isfinite().all())


def test_the_bundled_model_takes_noise_out() -> None:
    mini = vlgen.load()
    clean = vlgen.generate(mini, "PA chest radiograph. No acute finding.", seeds=[3]).pixels
    given = clean + 0.1 * normal(clean.shape[1:], [5])
    found = vlgen.denoise(mini, given, kind="cxr")
    with torch.inference_mode():
        round_trip = CXR.decode(mini.decode(mini.encode(CXR.encode(given))).clamp(-1, 1))
    scores = [float(psnr(x, clean, peak=1.0)) for x in (given, round_trip, found.pixels)]
    # 20, 28 and 33 dB were seen
    assert scores[0] < 20.2 and scores[1] > scores[0] + 5 and scores[2] > scores[1] + 2, scores
    assert found.provenance[0]["noise"] == pytest.approx(0.1, rel=0.05)


# The command.


def test_the_command_denoises_files(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture, array = tmp_path / "patient.png", tmp_path / "patient.npy"
    Image.fromarray((noisy(1)[0, 0].clamp(0, 1) * 255).byte().numpy()).save(picture)
    np.save(array, noisy(1)[0, 0].numpy())
    words = ["denoise", picture, array, "--model", own, "--out", tmp_path / "out", "--modality", "cxr"]
    assert call(*words, "--noise", "0.05", "--steps", "2", "--weight", "0.9", "--kernel", "pfgmpp:128") == 0
    said = capsys.readouterr().out
    assert "steps 2 | nfe 2" in said and "weight 0.9" in said and "note: kernel pfgmpp:128" in said
    paths = sorted((tmp_path / "out").glob("*.png"))
    assert len(paths) == 2 and "patient" not in paths[0].name and said.count("noise 0.05, sigma") == 2
    assert vlgen.info(paths[0])["weight"] == 0.9
    assert call("info", paths[0]) == 0 and "again" not in capsys.readouterr().out
    assert call(*words, "--json", "--format", "npy", "--sigma", "0.5") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["sigma"] for row in told["files"]] == [0.5, 0.5] and told["steps"] == 1 and told["modality"] == "cxr"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--noise", "0"), "above 0"),
        (("--noise", "nan"), "above 0"),
        (("--noise", "much"), "give auto"),
        (("--noise", "0.1", "--sigma", "1"), "both given"),
        (("--steps", "9"), "1 to 8"),
        (("--format", "bmp"), "png, npy, dicom"),
        (("--modality", "ct"), "relative units"),
        (("--solver", "magic"), "magic"),
        (("--noise", "1e-9"), "image 1 of 1"),
    ],
)
def test_the_command_ends_in_one_sentence(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    file = tmp_path / "x.npy"
    np.save(file, (noisy(1)[0, 0].clamp(0, 1) * 255).byte().numpy())
    given = ["--modality", "cxr"] if "--modality" not in words else []
    assert call("denoise", file, "--model", own, "--out", tmp_path, *given, *words) == 2
    err = capsys.readouterr().err
    assert reason in err and "Traceback" not in err and err.count("\n") == 1


def test_the_command_wants_an_image_and_what_it_is(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("denoise", tmp_path / "none.png", "--model", own, "--out", tmp_path, "--modality", "cxr") == 2
    assert "no such file" in capsys.readouterr().err
    np.save(tmp_path / "rgb.npy", np.zeros((3, 32, 32), np.float32))
    assert call("denoise", tmp_path / "rgb.npy", "--model", own, "--out", tmp_path, "--modality", "cxr") == 2
    assert "3 channels" in capsys.readouterr().err
    assert call("denoise", tmp_path / "rgb.npy", "--model", own, "--out", tmp_path) == 2
    assert "what kind of image" in capsys.readouterr().err
