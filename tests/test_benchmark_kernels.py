"""Studies of kernels and of denoising: equal noise for every kernel, errors as told, rounding, cells that are kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import adapted
import pytest
import torch
from films import films
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

import vlgen
from vlgen.backbone import Backbone
from vlgen.benchmark.cells import Cell, begin, seen
from vlgen.benchmark.hijack import Denoised, denoising
from vlgen.benchmark.kernels import Fidelity, KernelStudy
from vlgen.benchmark.rounding import round_unet, rounded
from vlgen.cli import main
from vlgen.cli.kernels import errors_of, shares_of
from vlgen.kernels import Gaussian, PFGMpp, kernel
from vlgen.metrics.distribution import frechet, mmd
from vlgen.metrics.image import psnr
from vlgen.plan import plan
from vlgen.samplers.swaps import ADAPTER, FREE, REFUSED, swap, swaps
from vlgen.solvers import SOLVERS, solver

TEXT = "AP chest radiograph. Large left pleural effusion."


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("films") / "real", 26)


@pytest.fixture(scope="module")
def adapter(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "test-pfgmpp"
    adapted.stored(own, folder, name="test-pfgmpp")
    adapted.rewrite(folder, kernel="pfgmpp:16", D=16.0)
    return folder


def study(own: Path, real: Path, adapter: Path, folder: Path | None = None, **changes: object) -> KernelStudy:
    base = KernelStudy(
        str(real), str(real), model=str(own), adapters=("none", str(adapter)), budgets=(2, 3), at=2, errors=(0.5,),
        bits=(4,), count=50, solver="euler", features="mini", folder=folder,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(
    own: Path, real: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[KernelStudy, list[Fidelity]]:
    mine = study(own, real, adapter, tmp_path_factory.mktemp("kept") / "features")
    assert mine.outlook()[0] == len(mine.cells()) == 8 and mine.outlook()[1] > 0
    return mine, list(mine.run())


# Rounding.


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_rounded_weights_lie_on_the_grid_of_their_channel(bits: int) -> None:
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7).reshape(
        -1, 1, 1, 1
    )
    found, top = rounded(weight, bits), 2 ** (bits - 1) - 1
    scale = weight.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1) / top
    steps = found / scale
    torch.testing.assert_close(steps, steps.round(), rtol=1e-5, atol=1e-3)
    assert float(steps.abs().max()) <= top + 1e-3 and float(((found - weight).abs() / scale).max()) <= 0.5 + 1e-3
    torch.testing.assert_close(found.flatten(1).abs().amax(1), weight.flatten(1).abs().amax(1))  # the largest stays
    torch.testing.assert_close(rounded(found, bits), found)
    torch.testing.assert_close(rounded(-7 * weight, bits), -7 * found)
    assert bool((rounded(torch.zeros(2, 3), bits) == 0).all())


def test_bits_have_a_range() -> None:
    for bits in (1, 17, 0):
        with pytest.raises(ValueError, match="2 to 16"):
            rounded(torch.ones(1, 1), bits)


def test_rounding_takes_the_adapter_along_and_spares_norms(own: Path, adapter: Path) -> None:
    plain, fine, coarse = (vlgen.load(own, adapter=adapter) for _ in range(3))
    with_it, bare = plain.probe(), adapted.bare(own).probe()
    count = round_unet(fine, 16)
    assert count == sum(
        m.weight.numel() for m in adapted.bare(own).unet.modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ), "each weight once"
    apart = float((with_it - bare).abs().max())
    assert apart > 0.01 and float((fine.probe() - with_it).abs().max()) < 0.02 * apart  # 16 bits: 1e-4 of the weights
    layers = {name: m for name, m in plain.unet.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in layers.items():  # what acts is rounded, not what lies below an adapter that is not
        done = fine.unet.get_submodule(name)
        delta = sum(layer.get_delta_weight(slot) for slot in layer.active_adapters)
        exact = rounded(layer.get_base_layer().weight + delta, 16)
        torch.testing.assert_close(done.get_base_layer().weight, exact, rtol=0, atol=1e-4)
        assert done.merged
    assert layers
    round_unet(coarse, 3)
    assert float((coarse.probe() - with_it).abs().max()) > 0.02 * apart
    for (name, before), after in zip(plain.unet.named_parameters(), coarse.unet.parameters(), strict=True):
        if before.ndim == 1:
            assert torch.equal(before, after), name


# What every kernel gets.


@pytest.fixture(scope="module")
def backbone(own: Path) -> Backbone:
    return vlgen.load(own)


def test_an_error_in_sigma_is_what_the_network_is_told(backbone: Backbone) -> None:
    plans = [plan(backbone, TEXT, seeds=[k], guidance_scale=1, steps=2) for k in (3, 4)]
    z, told = begin(backbone, plans, 0.25)
    with torch.inference_mode():
        cond = backbone.embed([one.prompt for one in plans])
        sigma = torch.tensor(2.0)
        assert torch.equal(told(z, sigma), backbone.denoise(z, sigma * 1.25, cond))
        assert torch.equal(begin(backbone, plans, 0.0)[1](z, sigma), backbone.denoise(z, sigma, cond))


def test_every_kernel_gets_the_same_noise_but_for_s(backbone: Backbone) -> None:
    def noise(name: str) -> Tensor:
        return begin(backbone, [plan(backbone, TEXT, seeds=[k], kernel_name=name) for k in range(5)], 0.0)[0]

    z = noise("gaussian")
    ratio = (noise("pfgmpp:16") / z).flatten(1)
    assert float((ratio.std(1) / ratio.mean(1)).max()) < 1e-5, "one s an image"
    torch.testing.assert_close(ratio.mean(1), PFGMpp(16).scales(range(5)), rtol=1e-5, atol=0)
    assert torch.equal(z, Gaussian().noise(backbone.shape, 80.0, range(5)))


def test_guidance_is_counted(own: Path, real: Path, adapter: Path, backbone: Backbone) -> None:
    for scale, steps in ((1.0, 6), (2.0, 3)):
        plans = study(own, real, adapter, guidance_scale=scale)._plans(backbone, 6)
        assert plans[0].steps == steps and plans[0].nfe == 6
    plans = study(own, real, adapter, solver="heun")._plans(backbone, 6)
    assert plans[0].steps == 3 and plans[0].nfe == 5 and len({one.seeds for one in plans}) == len(plans) == 12


# The study.


def test_a_row_for_each_cell_and_halves_beside(run: tuple[KernelStudy, list[Fidelity]]) -> None:
    mine, rows = run
    assert [row.cell for row in rows] == mine.cells()
    assert [(c.nfe, c.error, c.bits) for c in mine.cells()[:4]] == [(2, 0, 0), (3, 0, 0), (2, 0.5, 0), (2, 0, 4)]
    assert {row.kernel for row in rows[:4]} == {"gaussian"} and {row.kernel for row in rows[4:]} == {"pfgmpp:16"}
    first, second = mine.halves
    assert len(first) == len(second) == 12 == rows[0].n, "26 images of 13 patients: 12 of each half, of 50 asked for"
    for row in rows:
        assert row.reference == (frechet(first, second), mmd(first, second))
        value, low, high = row.frechet
        assert low < value < high and row.frechet[0] > 0
        assert (row.change is None) == (row.moved is None) == (not row.cell.disturbed)
        assert (row.against is None) == (row.kernel_against is None) == (row.cell.adapter == "none")


def test_differences_are_those_of_the_distances(run: tuple[KernelStudy, list[Fidelity]]) -> None:
    rows = {row.cell: row for row in run[1]}
    for cell, row in rows.items():
        base, first = rows[Cell(cell.adapter, cell.nfe)], rows[replace(cell, adapter="none")]
        for name, kind in (("", "frechet"), ("kernel_", "kernel_distance")):
            change, against = getattr(row, f"{name}change"), getattr(row, f"{name}against")
            here = getattr(row, kind)[0]
            if change:
                assert change[0] == pytest.approx(here - getattr(base, kind)[0], abs=1e-9) and change[1] < change[2]
            if against:
                assert against[0] == pytest.approx(here - getattr(first, kind)[0], abs=1e-9)
        if row.moved:
            assert row.moved[0] > 0 and row.moved[1] < row.moved[2]


def test_distances_are_those_of_the_images(run: tuple[KernelStudy, list[Fidelity]], backbone: Backbone) -> None:
    mine, rows = run
    plans = mine._plans(backbone, 3)
    z, told = begin(backbone, plans, 0.0)
    with torch.inference_mode():
        *_, last = solver("euler")(told, z, plans[0].sigmas)
    x = mine._eye.see(seen(backbone, last.x))
    by_hand = (frechet(mine.halves[0], x) + frechet(mine.halves[1], x)) / 2
    # sums of batches of 8 and of 12, in float32
    assert rows[1].cell == Cell("none", 3) and rows[1].frechet[0] == pytest.approx(by_hand, rel=1e-2)


def test_what_is_there_is_not_sampled_again(
    run: tuple[KernelStudy, list[Fidelity]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, rows = run
    assert mine.folder is not None and len(list(mine.folder.iterdir())) == 8
    again = replace(mine)
    assert again.outlook() == (0, 0.0)
    monkeypatch.setattr("vlgen.benchmark.kernels.begin", lambda *_: pytest.fail("sampled again"))
    assert list(again.run()) == rows
    monkeypatch.undo()
    for change in ({"seed": 1}, {"solver": "dpmpp_2m"}, {"guidance_scale": 1.5}, {"count": 10}):
        assert replace(mine, **change).outlook()[0] == 8, change  # type: ignore[arg-type]
    assert replace(mine, budgets=(2, 3, 4)).outlook()[0] == 2
    next(iter(mine.folder.iterdir())).unlink()
    assert replace(mine).outlook()[0] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapters": ()}, "give each once"),
        ({"adapters": ("none", "none")}, "give each once"),
        ({"budgets": (0,)}, "give 1 or more"),
        ({"errors": (-1.0,)}, "error in sigma"),
        ({"errors": (math.nan,)}, "error in sigma"),
        ({"bits": (1,)}, "2 to 16"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KernelStudy("a", "b", **changes)  # type: ignore[arg-type]


def test_the_seed_tells_cells_apart_where_all_texts_are_one(
    own: Path, real: Path, adapter: Path, backbone: Backbone, tmp_path: Path
) -> None:
    one = study(own, real, adapter, tmp_path / "kept", reports=films(tmp_path / "one", 4, texts=(TEXT,)))
    other, cell = replace(one, seed=1), Cell("none", 2)
    assert one.texts == other.texts and one._place(backbone, cell) != other._place(backbone, cell)
    assert one._place(backbone, cell) == replace(one)._place(backbone, cell)


def test_what_only_shows_on_the_way_is_refused(own: Path, real: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chooses its own steps"):
        next(study(own, real, adapter, solver="rk45").run())
    with pytest.raises(ValueError, match="erases"):
        study(own, real, adapter, solver="ddpm", adapters=(str(adapter),)).outlook()
    with pytest.raises(ValueError, match="do not pay for a step"):
        study(own, real, adapter, guidance_scale=2, budgets=(1,)).outlook()
    with pytest.raises(ValueError, match="20 of at least two patients"):
        study(own, films(tmp_path / "few", 8), adapter).outlook()


def test_the_command_prints_keeps_and_goes_on(
    own: Path, real: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made" / "kernels.json"
    words = ["benchmark", "kernels", real, "--reports", real, "--model", own, "--adapters", f"none,{adapter}"]
    words += ["--nfe", "2", "--at", "2", "--errors=-10%", "--bits", "", "--features", "mini", "--solver", "euler"]
    assert call(*words, "--json", file) == 0
    said = capsys.readouterr().out
    assert "4 cells of 12 images, 4 to sample" in said and "sigma -10%" in said and "pfgmpp:16" in said
    assert "two real halves of 12: Frechet" in said
    found = json.loads(file.read_text())
    assert len(found["rows"]) == 4 and found["rows"][1]["cell"]["error"] == -0.1 and "text" not in file.read_text()
    assert call(*words, "--json", file) == 0
    assert "0 to sample" in capsys.readouterr().out and json.loads(file.read_text()) == found
    assert call(*words, "--at", "0") == 2
    capsys.readouterr()
    assert call(*words, "--adapters", "nowhere") == 2 and "Traceback" not in capsys.readouterr().err


def test_lists_as_people_write_them() -> None:
    assert errors_of("-20%, 5,10%") == [-0.2, 0.05, 0.1] and errors_of(" ") == []
    assert shares_of("0.1,1,0.1", "noise") == [0.1, 1.0] and shares_of("2", "told", 10) == [2.0]
    for wrong in ("a", "1%%", "5;6"):
        with pytest.raises(ValueError, match="per cents"):
            errors_of(wrong)
    for wrong in ("", "-0.1", "1.1", "nan", "a"):
        with pytest.raises(ValueError, match="from 0 to 1"):
            shares_of(wrong, "noise")


# Denoising.


@pytest.fixture(scope="module")
def denoised(own: Path, real: Path, adapter: Path) -> list[Denoised]:
    found = denoising(
        real, model=str(own), adapters=("none", str(adapter)), noises=(0.1,), steps=(1,), weights=(0.0, 1.0),
        told=(0.0, 2.0), kind="cxr",
    )  # fmt: skip
    return list(found)


def test_each_way_has_a_row_with_its_interval(denoised: list[Denoised]) -> None:
    ways = [row.way for row in denoised]
    assert ways[0] == "round trip of the clean images" and ways[1] == "the noisy images"
    assert "round trip of the noisy images" in ways and ways[2].startswith("blur, best width")
    rows = [row for row in denoised if row.steps]
    assert len(rows) == 2 * 2 * 2 and {row.kernel for row in rows} == {"gaussian", "pfgmpp:16"}
    assert {row.n for row in denoised} == {13}, "one image of each patient"
    assert all(row.psnr[1] < row.psnr[0] < row.psnr[2] for row in denoised)
    assert all((row.gain is None) == (row.kernel != "pfgmpp:16") for row in denoised)


def test_the_noisy_images_have_the_psnr_of_their_noise_and_weight_0_is_they(denoised: list[Denoised]) -> None:
    noisy = next(row for row in denoised if row.way == "the noisy images")
    # 13 images of 1024 pixels: the mean square is known to 1.2 %, 0.05 dB
    assert noisy.psnr[0] == pytest.approx(20, abs=0.2)
    for row in denoised:
        if row.steps and row.weight == 0:
            assert row.psnr == noisy.psnr and row.ssim == noisy.ssim and (row.gain is None or row.gain[0] == 0)


def test_the_gain_is_image_by_image(denoised: list[Denoised]) -> None:
    rows = {(row.way, row.steps, row.told): row for row in denoised if row.steps and row.weight == 1}
    for (way, steps, told), row in rows.items():
        if row.gain:
            base = rows["hijack, no adapter", steps, told]
            assert row.gain[0] == pytest.approx(row.psnr[0] - base.psnr[0], abs=1e-9) and way.endswith("test-pfgmpp")
            assert row.gain[2] - row.gain[1] < row.psnr[2] - row.psnr[1] + base.psnr[2] - base.psnr[1]
    assert rows["hijack, no adapter", 1, 0.0].psnr != rows["hijack, no adapter", 1, 2.0].psnr


def test_plain_denoisers_denoise() -> None:
    from vlgen.benchmark.hijack import plain
    from vlgen.tensors import normal

    line = torch.linspace(0.1, 0.9, 64)
    clean = ((line[:, None] > 0.5) * 0.5 + line[None] / 2)[None, None].repeat(2, 1, 1, 1)
    given = clean + 0.1 * normal((1, 64, 64), [1, 2])
    found = dict(plain(given, clean))
    assert next(iter(found)).startswith("blur") and all(x.shape == clean.shape for x in found.values())
    for x in found.values():
        assert float((psnr(x, clean, peak=1.0) - psnr(given, clean, peak=1.0)).min()) > 4


def test_the_denoising_command_prints_and_keeps(
    own: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "h.json"
    words = ["benchmark", "hijack", real, "--model", own, "--noise", "0.2", "--steps", "1", "--count", "11"]
    assert call(*words, "--json", file) == 0
    said = capsys.readouterr().out
    assert "hijack, no adapter gaussian" in said and "11 images of as many patients, seed 0" in said
    assert json.loads(file.read_text())["n"] == 11
    assert call(*words, "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(json.loads(file.read_text())["rows"])
    assert call(*words, "--noise", "2") == 2 and "from 0 to 1" in capsys.readouterr().err
    few = films(tmp_path / "few", 8)
    assert call("benchmark", "hijack", few, "--model", own, "--modality", "cxr") == 2
    assert "at least 11" in capsys.readouterr().err
    mixed = films(tmp_path / "mixed", 26, texts=("Brain MRI. Glioma.", TEXT))
    assert call("benchmark", "hijack", mixed, "--model", own) == 2 and "one modality" in capsys.readouterr().err


# Swaps.


@pytest.mark.parametrize("trained", ["gaussian", "pfgmpp:128"])
def test_the_table_of_swaps_says_what_a_plan_does(own: Path, trained: str) -> None:
    weights = replace(adapted.bare(own), kernel=trained)
    for name in (*SOLVERS, "ddim:0.5", "heun:churn=40", "euler_ancestral:0"):
        for asked in ("gaussian", "pfgmpp:128", "pfgmpp:2048", "pfgmpp:inf"):
            verdict = swap(solver(name), kernel(trained), kernel(asked))
            try:
                notes = plan(weights, TEXT, solver_name=name, kernel_name=asked, steps=2, guidance_scale=1).notes
            except ValueError as error:
                assert verdict == REFUSED and "erases" in str(error), (name, asked)
            else:
                warned = any(note.startswith(f"kernel {asked}, but") for note in notes)
                assert verdict == (ADAPTER if warned else FREE), (name, asked)


def test_every_solver_is_in_the_table_and_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    groups = swaps(Gaussian(), PFGMpp(128))
    assert sorted(name for names, _ in groups for name in names) == sorted(SOLVERS)
    verdicts = {name: found for names, found in groups for name in names}
    assert verdicts["euler"]["gaussian", "pfgmpp:128"] == ADAPTER and verdicts["euler"]["gaussian", "gaussian"] == FREE
    assert verdicts["ddpm"]["pfgmpp:128", "pfgmpp:128"] == REFUSED
    assert call("samplers") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (FREE, ADAPTER, REFUSED, "swaps for euler"))
    assert call("samplers", "--json") == 0
    rows = {row["name"]: row["swaps"] for row in json.loads(capsys.readouterr().out)}
    assert rows["heun"] == [[*pair, verdict] for pair, verdict in verdicts["heun"].items()]
