"""Pretraining: the stages on a folder made here become a model that loads, and a killed run resumes bit for bit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import CLIP, DC, SENTENCES, UNET

import vlgen
from vlgen.checkpoint import latest, save
from vlgen.findings import VOCABULARY, Finding
from vlgen.folder import CODECS, part
from vlgen.pretrain import Recipe, clip, outline, pretrain
from vlgen.pretrain.examples import draw, gather
from vlgen.report import Report
from vlgen.train.loop import Task, Training, run

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
[decoder]
steps = 4
batch = 4
crop = 16
perceptual = 0.1
sampled = 0.5
highest = 1.0
critic = 0.5
{SPEED}
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


def test_the_stages_make_a_model_that_loads(finished: Path) -> None:
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


def test_the_decoder_learns_and_the_encoder_stays(finished: Path) -> None:
    before, after = (part(finished / place, CODECS).state_dict() for place in ("decoder/begin", "parts/vae"))
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"} and (finished / "decoder" / "log.csv").is_file()


def test_what_the_sampler_leaves_lies_beside_the_latents_and_is_kept(finished: Path, recipe_file: Path) -> None:
    from vlgen.pretrain.diffusion import latents
    from vlgen.pretrain.estimates import estimates

    films = gather(Recipe.read(recipe_file), "decoder", "train", finished / "cache")
    given = {"parts": finished / "parts", "device": torch.device("cpu"), "seed": 0}
    found = estimates(films, highest=1.0, **given)
    (file,) = (finished / "cache").glob("estimates-*")
    z = latents(vlgen.load(finished / "parts"), films, finished / "cache")
    assert found.shape == z.shape and file.stat().st_size > 0
    close = [estimates(films, highest=h, **given).float() - z for h in (0.03, 1.0)]
    assert close[0].std() < 0.1 < close[1].std(), "noise of 0.03 at most leaves them where they are, 1.0 does not"
    with pytest.raises(ValueError, match="above the model's sigma_min"):
        estimates(films, highest=0.02, **given)


def test_another_codec_begins_anew(finished: Path, recipe_file: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "parts", tmp_path / "parts")
    shutil.copytree(finished / "decoder", tmp_path / "decoder")
    codec = part(tmp_path / "parts" / "vae", CODECS)
    next(codec.encoder.parameters()).data.add_(1)
    codec.half().save_pretrained(tmp_path / "parts" / "vae")
    with pytest.raises(ValueError, match="belong to another recipe or codec"):
        list(pretrain(Recipe.read(recipe_file), tmp_path, stages=["decoder"]))


def test_a_finished_run_does_nothing(finished: Path, recipe_file: Path) -> None:
    assert list(pretrain(Recipe.read(recipe_file), finished)) == []


@pytest.mark.parametrize("stage", ["codec", "clip", "diffusion", "decoder"])
def test_an_interrupted_run_is_bit_identical(finished: Path, recipe_file: Path, tmp_path: Path, stage: str) -> None:
    import shutil

    recipe = Recipe.read(recipe_file)
    shutil.copytree(finished / "parts", tmp_path / "parts")
    shutil.copytree(finished / "decoder" / "begin", tmp_path / "decoder" / "begin")
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

    return Task(network, loss, lambda step: [0], lambda network, path: None, lambda network: None, "stamp")


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


def test_a_skipped_step_leaves_the_running_figures_of_a_batch_normalization_alone(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    def loss(model: torch.nn.Module, indices: list[int], step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.full((3, 2), float("nan")) if step == 1 else torch.arange(6.0).view(3, 2)
        return model(x).square().mean(), {}

    network = Net()
    task = Task(network, loss, lambda step: [0], lambda network, path: None, lambda network: None, "stamp")
    list(run(task, Training(4, 1, 1e-2, 1, 0.9, 0.0, 1000, 1000), tmp_path, stage="codec", seed=0))
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    assert int(network.norm.num_batches_tracked) == 3


QUICK = Training(4, 1, 1e-2, 1, 0.9, 0.0, 0, 1000)


def test_what_has_its_last_checkpoint_was_exported(tmp_path: Path) -> None:
    exported = []
    task = replace(_task([1] * 4), export=exported.append)
    list(islice(run(task, QUICK, tmp_path, stage="codec", seed=0), 4))  # dropped right after the last step
    assert len(exported) == 1

    def full(_: torch.nn.Module) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        list(run(replace(_task([1] * 4), export=full), QUICK, tmp_path / "b", stage="codec", seed=0))
    again = replace(_task([1] * 4), export=exported.append)
    assert [s.step for s in run(again, QUICK, tmp_path / "b", stage="codec", seed=0)] == [4]
    assert len(exported) == 2
    assert list(run(again, QUICK, tmp_path / "b", stage="codec", seed=0)) == [] and len(exported) == 2


def test_checkpoints_of_another_recipe_are_refused(tmp_path: Path) -> None:
    list(islice(run(_task([1] * 4), QUICK, tmp_path, stage="codec", seed=0), 2))
    with pytest.raises(ValueError, match="belong to another recipe or codec"):
        list(run(replace(_task([1] * 4), stamp="other"), QUICK, tmp_path, stage="codec", seed=0))
    good = latest(tmp_path / "checkpoints")
    assert good
    save(tmp_path / "checkpoints", replace(good, step=3, facts={"skipped": 0}))  # from before there were stamps
    with pytest.raises(ValueError, match="belong to another recipe or codec"):
        list(run(_task([1] * 4), QUICK, tmp_path, stage="codec", seed=0))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr = 1e-3", "lr = 2e-3"),
        ('name = "tiny"', 'name = "tiny"\nseed = 1'),
        ("crop = 16", "crop = 8"),
        ('modality = "cxr"', 'modality = "cxr"\nweight = 2'),
        ("latent_channels = 4", "latent_channels = 2"),
    ],
)
def test_an_edited_recipe_does_not_resume(
    finished: Path, recipe_file: Path, tmp_path: Path, old: str, new: str
) -> None:
    edited = recipe_file.parent / f"{tmp_path.name}.toml"  # beside the images
    edited.write_text(recipe_file.read_text().replace(old, new, 1))
    assert edited.read_text() != recipe_file.read_text()
    with pytest.raises(ValueError, match="belong to another recipe or codec"):
        list(pretrain(Recipe.read(edited), finished, stages=["codec"]))


def test_settings_of_sampling_are_not_part_of_what_was_trained(finished: Path, recipe_file: Path) -> None:
    recipe = Recipe.read(recipe_file)
    other = recipe.options["diffusion"] | {"defaults": {"steps": 3}, "sheet": ["Chest radiograph."]}  # type: ignore[operator]
    edited = replace(recipe, options={**recipe.options, "diffusion": other})
    assert list(pretrain(edited, finished, stages=["diffusion"])) == []


def test_a_run_may_be_lengthened_and_another_codec_refuses_the_diffusion(
    finished: Path, recipe_file: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "run")
    longer = recipe_file.parent / "longer.toml"
    longer.write_text(recipe_file.read_text().replace("steps = 6", "steps = 7", 1))
    assert [s.step for s in pretrain(Recipe.read(longer), tmp_path / "run", stages=["codec"])] == [7]
    with pytest.raises(ValueError, match="belong to another recipe or codec"):
        list(pretrain(Recipe.read(longer), tmp_path / "run", stages=["diffusion"]))
    caches = list((tmp_path / "run" / "cache").glob("latents-*"))
    assert len(caches) == 4, "train and test of either codec"


def test_the_log_has_each_step_once(tmp_path: Path) -> None:
    seldom = replace(QUICK, steps=5, save_minutes=1000)
    list(islice(run(_task([1] * 5), replace(QUICK, steps=5), tmp_path, stage="codec", seed=0), 2))
    list(islice(run(_task([1] * 5), seldom, tmp_path, stage="codec", seed=0), 2))  # steps that no checkpoint holds
    log = tmp_path / "log.csv"
    log.write_text(log.read_text() + "1")  # torn
    list(run(_task([1] * 5), seldom, tmp_path, stage="codec", seed=0))
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["step", "1", "2", "3", "4", "5"]


def test_an_empty_part_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    recipe = replace(Recipe.read(recipe_file), held_out=1e-6)
    with pytest.raises(ValueError, match="no patient of stage clip is in the part test: change held_out"):
        gather(recipe, "clip", "test", tmp_path)


def test_the_turned_statement_differs_by_its_status_alone() -> None:
    assert all(name in VOCABULARY for names in clip._USUAL.values() for name in names)
    for text in ("Breast ultrasound. Normal.", "AP chest radiograph. Large left pleural effusion.", SENTENCES[3]):
        for seed in range(20):
            pair = clip.turn(Report.parse(text), seed)
            assert pair
            (right,), (wrong,) = (report.findings for report in pair)
            assert {right.status, wrong.status} == {"present", "absent"}
            assert replace(right, status="") == replace(wrong, status="") == Finding(right.name, "")
            assert all(clip.stated(report, seed) for report in pair)


def test_outline_counts_without_training(recipe_file: Path) -> None:
    lines = list(outline(Recipe.read(recipe_file)))
    assert lines[0].startswith("codec: 6 steps of 4") and "held out" in lines[1]
    assert all("parameters" in lines[k] for k in (0, 2, 4, 6)) and len(lines) == 8


def test_outline_counts_what_is_trained_and_what_was_refused(finished: Path, recipe_file: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(recipe_file.parent / "films", tmp_path / "films")
    with open(tmp_path / "films" / "metadata.csv", "a") as file:
        file.write("none.png,p,Chest radiograph.\n")
    lines = list(outline(Recipe.read(recipe_file, data=tmp_path)))
    assert lines[-1].endswith("films: 1 rows refused, the first at line 26: no such file")
    for line, name in ((lines[0], "vae"), (lines[4], "unet")):
        assert f"{sum(v.numel() for v in weights(finished / 'parts' / name).values()):,} parameters" in line


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
        ('folder = "films"', 'folder = "films"\nweight = {x = 1}', "stage 'x'"),
        ('folder = "films"', 'folder = "films"\nweight = -1', "weight"),
        ("held_out = 0.3", "held_out = 2", "held_out is 2"),
        ("held_out = 0.3", 'held_out = "x"', "held_out is 'x'"),
        ("held_out = 0.3", "seed = 1.5", "seed is 1.5"),
        ('name = "tiny"', 'name = "../up"', "name is '../up'"),
        ('name = "tiny"', "name = 3", "name is 3"),
        ("size = 32", "size = true", "size is True"),
        ("steps = 6", "steps = 6.5", "steps of .codec. is 6.5; give a whole number"),
        ("batch = 4", "batch = true", "batch of .codec. is True"),
        ("warmup = 2", "warmup = 2.0", "warmup of .codec. is 2.0"),
        ("crop = 16", "crop = 33", "crop of .codec. is 33"),
        ("crop = 16", 'crop = "16"', "crop of .codec. is '16'"),
        ("crop = 16", "corp = 16", "unknown entry 'corp'"),
        ("vocabulary = 300", "vocab = 300", "unknown entry 'vocab'"),
        ('sheet = ["Chest radiograph."]', 'sheet = "x"', "sheet of .diffusion. is 'x'"),
        ("scheduler =", "sheduler =", "unknown entry 'sheduler'"),
        ("scheduler =", "defaults =", "is not TOML"),
        ('prediction_type = "v_prediction"', "beta_end = 0.02", "no 'scheduler.prediction_type'"),
        ("embed_dim = 16", "x = 16", "no 'model.embed_dim'"),
        ("model =", "noise = 0.1 #", "no 'model'"),
        ('folder = "films"', 'folder = "films"\nweight = "much"', "weight of films is 'much'"),
        ('folder = "films"', "folder = 3", "folder of a source is 3"),
        ('folder = "films"', 'folder = "films"\nweight = {clip = 0}', "the weight of"),
    ],
)
def test_a_wrong_recipe_is_refused_by_entry(recipe_file: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = recipe_file.read_text()
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        Recipe.read(tmp_path / "r.toml")


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    whole = 'name = "x"\nsize = 32\nsource = [{folder = "f", modality = "cxr"}]\ncodec = 3\nclip = 3\ndiffusion = 3\n'
    for text, said in ((whole, "codec is 3"), (whole + "card = 1", "card is 1"), (whole + "texts = 1", "texts is 1")):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            Recipe.read(file)


def test_the_bundled_recipe_reads() -> None:
    path = Path(vlgen.__file__).parent / "recipes" / "mini.toml"
    recipe = Recipe.read(path)
    assert recipe.name == "mini" and recipe.size == 256
    if not recipe.sources[0].folder.is_dir():
        pytest.skip("the images are not here: ../shared/data")
    assert sum("share" in line for line in outline(recipe)) == 6 + 7 + 6 + 6
