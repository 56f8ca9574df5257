"""Pretraining: three stages on a folder made here become a model that loads, and a killed run resumes bit for bit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import CLIP, DC, SENTENCES, UNET

import vlgen
from vlgen.checkpoint import latest
from vlgen.pretrain import Recipe, outline, pretrain
from vlgen.pretrain.examples import draw, gather
from vlgen.pretrain.loop import Task, run
from vlgen.pretrain.recipe import Training

SPEED = "lr = 1e-3\nwarmup = 2\nsave_minutes = 0\nsheet_minutes = 1000\n"


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures with reports, and a recipe of a few steps."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pretrain")
    (root / "films").mkdir()
    g = torch.Generator().manual_seed(0)
    with open(root / "films" / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "patient", "text"])
        for k in range(24):
            pixels = (torch.rand(40, 40, generator=g) * 255).byte().numpy()
            Image.fromarray(pixels, "L").save(root / "films" / f"{k}.png")
            writer.writerow([f"{k}.png", f"p{k // 2}", SENTENCES[k % 2]])
    text = f"""
name = "tiny"
size = 32
held_out = 0.3
[[source]]
folder = "films"
modality = "cxr"
[codec]
steps = 6
batch = 4
crop = 16
{SPEED}
model = {toml(DC)}
[clip]
steps = 5
batch = 4
vocabulary = 300
{SPEED}
model = {toml(CLIP)}
[diffusion]
steps = 6
batch = 4
sheet = ["Chest radiograph."]
{SPEED}
model = {toml(UNET | {"class_embed_type": "projection"})}
scheduler = {{beta_schedule = "linear", prediction_type = "v_prediction"}}
defaults = {{steps = 2, guidance_scale = 2.0, sigma_min = 0.02, sigma_max = 80.0}}
[card]
modalities = ["cxr"]
"""
    path = root / "recipe.toml"
    path.write_text(text)
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        f"{file.relative_to(folder)}:{name}": value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.fixture(scope="module")
def finished(recipe_file: Path) -> Path:
    folder = recipe_file.parent / "run"
    steps = list(pretrain(Recipe.read(recipe_file), folder))
    assert [s.step for s in steps if s.stage == "diffusion"] == [1, 2, 3, 4, 5, 6]
    assert all(s.figures["skipped"] == 0 for s in steps)
    return folder


def test_three_stages_make_a_model_that_loads(finished: Path) -> None:
    backbone = vlgen.load(finished / "parts")
    assert backbone.name == "tiny" and backbone.prediction == "v_prediction" and backbone.size == 32
    images = vlgen.generate(backbone, "Chest radiograph.", seeds=[0])
    assert images.pixels.shape == (1, 1, 32, 32)
    measured = json.loads((finished / "parts" / "vae" / "measured.json").read_text())
    assert measured["cxr"]["n"] > 0 and measured["cxr"]["psnr"] > 0
    assert (finished / "codec" / "log.csv").read_text().splitlines()[0].startswith("step,loss")
    assert list((finished / "diffusion").glob("sheet-*.png"))


def test_latents_have_unit_scale(finished: Path, recipe_file: Path) -> None:
    backbone = vlgen.load(finished / "parts")
    films = gather(Recipe.read(recipe_file), "codec", "train", finished / "cache")
    assert abs(float(backbone.encode(films.pixels.float()).std()) - 1) < 0.05, "float16 weights, all images"


def test_a_finished_run_does_nothing(finished: Path, recipe_file: Path) -> None:
    assert list(pretrain(Recipe.read(recipe_file), finished)) == []


@pytest.mark.parametrize("stage", ["codec", "clip", "diffusion"])
def test_an_interrupted_run_is_bit_identical(finished: Path, recipe_file: Path, tmp_path: Path, stage: str) -> None:
    import shutil

    recipe = Recipe.read(recipe_file)
    shutil.copytree(finished / "parts", tmp_path / "parts")
    list(islice(pretrain(recipe, tmp_path, stages=[stage]), 3))  # the generator is dropped: as good as killed
    assert 0 < latest(tmp_path / stage / "checkpoints").step < recipe.training[stage].steps  # type: ignore[union-attr]
    list(pretrain(recipe, tmp_path, stages=[stage]))
    ours, theirs = (latest(folder / stage / "checkpoints") for folder in (tmp_path, finished))
    assert ours and theirs and ours.step == theirs.step
    different = [name for name, value in theirs.tensors.items() if not torch.equal(value, ours.tensors[name])]
    assert not different


@pytest.mark.slow
def test_a_real_sigkill_resumes_bit_for_bit(finished: Path, recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vlgen", "pretrain", str(recipe_file), "--out", str(tmp_path)]
    for wait in (9.0, 14.0):
        work = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        work.kill()
        work.wait()
    assert subprocess.run(command, timeout=300, stdout=subprocess.DEVNULL).returncode == 0
    ours, theirs = weights(tmp_path / "tiny" / "parts"), weights(finished / "parts")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_batches_come_from_a_counter_and_follow_the_weights(finished: Path, recipe_file: Path) -> None:
    films = gather(Recipe.read(recipe_file), "codec", "train", finished / "cache")
    assert draw(films, 8, 0, 5) == draw(films, 8, 0, 5) != draw(films, 8, 0, 6)
    held_out = gather(Recipe.read(recipe_file), "codec", "test", finished / "cache")
    shared = {row.patient for row in films.rows} & {row.patient for row in held_out.rows}
    assert not shared, "a patient is on one side alone"


def _task(values: list[float]) -> Task:
    network = torch.nn.Linear(1, 1)

    def loss(model: torch.nn.Module, indices: list[int], step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return model(torch.ones(1, 1)).sum() * values[step], {}

    return Task(network, loss, lambda step: [0], lambda network, path: None, lambda network: None)


def test_a_step_that_is_not_finite_is_skipped_and_three_stop(tmp_path: Path) -> None:
    training = Training(6, 1, 1e-2, 1, 0.9, 0.0, 0, 1000)
    nan = float("nan")
    task = _task([1, nan, 1, nan, nan, 1])
    steps = list(run(task, training, tmp_path / "a", stage="codec", seed=0))
    assert steps[-1].figures["skipped"] == 3
    assert all(bool(p.isfinite().all()) for p in task.network.parameters())
    with pytest.raises(FloatingPointError, match="three times in a row"):
        list(run(_task([1, 1, nan, nan, nan, 1]), training, tmp_path / "b", stage="codec", seed=0))
    good = latest(tmp_path / "b" / "checkpoints")
    assert good and all(bool(v.isfinite().all()) for v in good.tensors.values())


def test_outline_counts_without_training(recipe_file: Path) -> None:
    lines = list(outline(Recipe.read(recipe_file)))
    assert lines[0].startswith("codec: 6 steps of 4") and "held out" in lines[1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size = 32", "size = 33", "multiple of 32"),
        ("size = 32", "sise = 32", "unknown entry 'sise'"),
        ('modality = "cxr"', 'modality = "xr"', "unknown modality"),
        ("steps = 6", "steps = 0", "at least 1"),
        ("steps = 6", "", "no 'steps'"),
        ("lr = 1e-3", "lr = nan", "lr of"),
        ("[clip]", "[clip", "is not TOML"),
        ('folder = "films"', 'folder = "films"\nstages = ["x"]', "stage 'x'"),
        ('folder = "films"', 'folder = "films"\nweight = -1', "weight"),
        ("held_out = 0.3", "held_out = 2", "held_out is 2"),
    ],
)
def test_a_wrong_recipe_is_refused_by_entry(recipe_file: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = recipe_file.read_text()
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        Recipe.read(tmp_path / "r.toml")


def test_the_bundled_recipe_reads() -> None:
    path = Path(vlgen.__file__).parent / "recipes" / "mini.toml"
    recipe = Recipe.read(path)
    assert recipe.name == "mini" and recipe.size == 256
    if not recipe.sources[0].folder.is_dir():
        pytest.skip("the images are not here: ../shared/data")
    assert sum("share" in line for line in outline(recipe)) == 6 + 7 + 6
