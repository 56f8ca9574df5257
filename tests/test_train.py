"""The fine-tune: an adapter comes of a folder, whatever happens on the way, and nothing else changes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from films import TEXTS, films

from vlgen.adapter import CONTRACT, WEIGHTS, read
from vlgen.backbone import load
from vlgen.checkpoint import latest
from vlgen.dataset import Dataset
from vlgen.images import info
from vlgen.train import Step, tune
from vlgen.train.tune import train, workshop

FAST: dict[str, Any] = {
    "steps": 5,
    "batch": 4,
    "rank": 2,
    "audit": 0,
    "lr": 2e-2,
    "warmup": 1,
    "phrasings": 2,
    "save_minutes": 0,
    "fresh": False,
    "mixed": "no",
    "ema": 0.5,
    "licence": "cc0-1.0",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("films") / "set")


def steps(base: Path, folder: Path, out: Path, **more: Any) -> list[Step]:
    return list(train(load(base), Dataset(folder), out=out, **(FAST | more)))


@pytest.fixture(scope="module")
def finished(own: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "mine"
    steps(own, folder, out)
    return out


def same(one: Path, two: Path) -> bool:
    """Whether two adapters are the same bytes, contract and all."""
    first, second = (json.loads((folder / CONTRACT).read_text()) | {"name": ""} for folder in (one, two))
    return first == second and (one / WEIGHTS).read_bytes() == (two / WEIGHTS).read_bytes()


def test_a_folder_becomes_an_adapter_that_the_backbone_carries(own: Path, folder: Path, tmp_path: Path) -> None:
    backbone = load(own)
    bare = backbone.probe()
    found = list(train(backbone, Dataset(folder), out=tmp_path / "mine", task="effusion", **FAST))
    assert list(dict.fromkeys(step.stage for step in found)) == ["read", "encode", "embed", "train"]
    assert [step.step for step in found if step.stage == "train"] == [1, 2, 3, 4, 5]
    assert all(step.figures["skipped"] == 0 for step in found if step.stage == "train")
    contract = read(tmp_path / "mine")
    assert contract.modality == "cxr" and contract.kernel == "gaussian" and contract.rank == 2 and contract.steps == 5
    assert contract.images + contract.facts["held_out_images"] == 14 and contract.patients * 2 == contract.images
    assert len(contract.data_sha256) == 64 and contract.task == "effusion" and contract.licence == "cc0-1.0"
    assert backbone.adapters == {str(tmp_path / "mine"): 1.0}
    again = load(own, adapter=tmp_path / "mine").probe()
    assert torch.equal(backbone.probe(), again) and not torch.equal(again, bare)


def test_the_loss_falls_and_the_audit_says_so(own: Path, tmp_path: Path) -> None:
    data = films(tmp_path / "set", 24)
    steps(own, data, tmp_path / "mine", steps=60, targets="wide", batch=8, ema=0.9, save_minutes=9)
    audit = read(tmp_path / "mine").audit
    for name in ("held-out loss", "training loss"):
        loss = audit[name]
        assert loss["n"] > 1 and loss["change"] == pytest.approx(loss["after"] - loss["before"], abs=2e-6)
        assert loss["change"] < -3 * loss["change_se"], f"{name} is to fall beyond chance: {loss}"
    assert audit["in words"].startswith("The loss fell")


def test_it_ends_with_an_audit_of_its_images(own: Path, tmp_path: Path) -> None:
    """Twelve images without and with the adapter, beside real ones: the figures stand in the card, and stay."""
    data, out = films(tmp_path / "set", 60), tmp_path / "mine"
    stages = [
        step.stage for step in train(load(own), Dataset(data), out=out, **(FAST | {"audit": 12, "held_out": 0.4}))
    ]
    assert list(dict.fromkeys(stages)) == ["read", "encode", "embed", "train", "audit"]
    audit, card = read(out).audit, (out / "README.md").read_text()
    for name in ("kernel distance to held-out images", "nearest-neighbor ratio, median"):
        assert audit[name]["n"] == 12 and audit[name]["before"] != audit[name]["after"] and name in card
    assert audit["images"] == 12 and audit["membership inference, AUC"]["n"] >= 10
    written = (out / CONTRACT).stat().st_mtime_ns
    backbone = load(own)
    assert "audit" not in [
        step.stage for step in train(backbone, Dataset(data), out=out, **(FAST | {"audit": 12, "held_out": 0.4}))
    ]
    assert (out / CONTRACT).stat().st_mtime_ns == written and backbone.adapters == {str(out): 1.0}
    list(train(load(own), Dataset(data), out=out, **(FAST | {"audit": 11, "held_out": 0.4})))
    assert read(out).audit["images"] == 11, "more may be asked for afterwards"


def test_left_early_the_backbone_is_as_it_was(own: Path, folder: Path, tmp_path: Path) -> None:
    backbone = load(own)
    bare, kinds = backbone.probe(), {type(p) for p in backbone.unet.attn_processors.values()}
    state = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    for k, more in enumerate(({}, {"targets": "full", "lr": 1e-2}, {"mixed": "bf16", "kernel": "pfgmpp:128"})):
        walk = train(backbone, Dataset(folder), out=tmp_path / f"mine{k}", **(FAST | more))
        for step in walk:
            if step.stage == "train" and step.step == 2:
                break
        walk.close()  # type: ignore[attr-defined]
        assert torch.equal(backbone.probe(), bare) and not backbone.carried and not backbone.adapters
        assert backbone.kernel == "gaussian" and {type(p) for p in backbone.unet.attn_processors.values()} == kinds
        assert backbone.unet.state_dict().keys() == state.keys() and not backbone.unet.training
        assert backbone.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        assert not any(p.requires_grad for p in backbone.unet.parameters())
        assert not (tmp_path / f"mine{k}").exists()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_was_left_goes_on_bit_for_bit(
    finished: Path, own: Path, folder: Path, tmp_path: Path, stop: int
) -> None:
    out = tmp_path / "mine"
    walk = train(load(own), Dataset(folder), out=out, **FAST)
    list(islice((step for step in walk if step.stage == "train"), stop))
    walk.close()  # type: ignore[attr-defined]
    assert latest(workshop(out) / "checkpoints").step == stop  # type: ignore[union-attr]
    steps(own, folder, out)
    assert same(out, finished)
    log = (workshop(out) / "log.csv").read_text()
    assert log == (workshop(finished) / "log.csv").read_text()
    assert [line.split(",")[0] for line in log.splitlines()] == ["step", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ("own", {"targets": "wide", "kernel": "pfgmpp:128", "accumulate": 2}),
        ("own", {"targets": "full", "lr": 1e-3}),
        ("own", {"targets": "text", "mixed": "bf16"}),
        ("stable", {"targets": ("text",), "weighting": "min-snr"}),
    ],
    ids=["wide", "full", "text", "transformers"],
)
def test_every_kind_of_target_resumes_and_loads(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, base: str, more: dict[str, Any]
) -> None:
    root, weights = request.getfixturevalue(base), []
    for out in (tmp_path / "a", tmp_path / "b"):
        if out.name == "b":
            walk = train(load(root), Dataset(folder), out=out, **(FAST | more | {"steps": 3}))
            list(islice((step for step in walk if step.stage == "train"), 2))
            walk.close()  # type: ignore[attr-defined]
        steps(root, folder, out, **(more | {"steps": 3}))
        contract = read(out)
        weights.append(contract.sha256)
        assert not torch.equal(load(root, adapter=out).probe(), load(root).probe())
    assert weights[0] == weights[1]
    assert contract.full == (more["targets"] == "full") and contract.kernel == more.get("kernel", "gaussian")
    if "text" in more["targets"]:
        assert any(target.startswith("text:") for target in contract.targets)


KILLS = """
import json, os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import conftest  # sets the threads
import torch
torch.set_num_threads(1)
from pathlib import Path
from vlgen.backbone import load
from vlgen.dataset import Dataset
from vlgen.train.tune import train
import diffusers, peft, accelerate, PIL.Image  # once, before the children

base, folder, root, settings = json.loads(sys.argv[1])

def start(out):
    child = os.fork()
    if child == 0:
        try:
            for _ in train(load(base), Dataset(Path(folder)), out=Path(root) / out, **settings):
                pass
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return child

began = time.monotonic()
assert os.waitpid(start("whole"), 0)[1] == 0
took = time.monotonic() - began
draw, killed, early = random.Random({seed}), [], 0
while len(killed) < 6:
    child = start("killed")
    wait = draw.uniform(0.02, 0.8) * took
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    saved = sorted(p.name for p in (Path(root) / "killed.training" / "checkpoints").glob("step-*"))
    killed.append((round(wait / took, 2), os.WIFSIGNALED(status), saved[-1:]))
assert os.waitpid(start("killed"), 0)[1] == 0
print(json.dumps(killed))
"""


def test_sigkill_at_any_moment_changes_nothing(own: Path, folder: Path, tmp_path: Path) -> None:
    """Six real SIGKILLs at random moments of preparation, steps, checkpoints and export, then a run to the end."""
    settings = FAST | {"steps": 12, "preview_every": 5}
    words = json.dumps([str(own), str(folder), str(tmp_path), settings])
    script = KILLS.format(tests=str(Path(__file__).parent), seed=2)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    killed = json.loads(done.stdout.splitlines()[-1])
    assert any(died for _, died, _ in killed), killed
    assert same(tmp_path / "killed", tmp_path / "whole"), killed
    logs = [(tmp_path / f"{name}.training" / "log.csv").read_bytes() for name in ("killed", "whole")]
    assert logs[0] == logs[1]
    left = [path.name for path in tmp_path.rglob("*") if path.name.endswith((".part", ".tmp"))]
    assert not [name for name in left if "step-" in name], left


def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_later(
    finished: Path, own: Path, folder: Path, tmp_path: Path
) -> None:
    """The kernel itself refuses larger files, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "mine"
    walk = train(load(own), Dataset(folder), out=out, **FAST)
    list(islice((step for step in walk if step.stage == "train"), 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(ValueError, match="could not be written"):
            list(walk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    good = latest(workshop(out) / "checkpoints")
    assert good and good.step == 2 and not list((workshop(out) / "checkpoints").glob(".*"))
    steps(own, folder, out)
    assert same(out, finished)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder here that even root cannot write")
def test_a_read_only_folder_ends_in_a_sentence(own: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write into /proc/mine\.training"):
        steps(own, folder, Path("/proc/mine"))


def test_three_steps_that_are_not_finite_stop_and_leave_a_good_checkpoint(
    own: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = tune.error, set[int]()

    def error(model: Any, z: torch.Tensor, sigma: torch.Tensor, seeds: Any, *rest: Any) -> torch.Tensor:
        found = real(model, z, sigma, seeds, *rest)
        return found * float("nan") if calls.append(0) or len(calls) in bad else found

    monkeypatch.setattr(tune, "error", error)
    calls: list[int] = []
    bad |= {2, 4}
    found = steps(own, folder, tmp_path / "a")
    assert found[-1].figures["skipped"] == 2 and (tmp_path / "a" / WEIGHTS).exists()
    calls.clear()
    bad |= {3}
    with pytest.raises(FloatingPointError, match="not finite three times in a row"):
        steps(own, folder, tmp_path / "b")
    good = latest(workshop(tmp_path / "b") / "checkpoints")
    assert good and good.step == 3 and good.facts["in_a_row"] == 2, "what three in a row means survives a resume"
    assert all(bool(value.isfinite().all()) for value in good.tensors.values())
    assert not (tmp_path / "b").exists()


def test_neither_codec_nor_text_tower_runs_in_a_step(
    own: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(own)
    walk = train(backbone, Dataset(folder), out=tmp_path / "mine", **FAST)
    next(step for step in walk if step.stage == "train")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a frozen part ran in a step")

    monkeypatch.setattr(backbone.codec, "forward", never)
    monkeypatch.setattr(backbone.codec, "encode", never)
    monkeypatch.setattr(backbone.text, "_states", never)
    assert next(walk).step == 2 and next(walk).step == 3
    walk.close()  # type: ignore[attr-defined]


def test_a_batch_in_parts_is_the_same_batch(own: Path, folder: Path, tmp_path: Path) -> None:
    losses = []
    for accumulate in (1, 2, 4):
        steps(own, folder, tmp_path / str(accumulate), accumulate=accumulate)
        with open(workshop(tmp_path / str(accumulate)) / "log.csv") as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    # Six digits are logged; sums in another order differ by about 1e-6 of the loss, which five steps carry on.
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_other_settings_or_data_do_not_resume_and_more_steps_do(own: Path, folder: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "mine", films(tmp_path / "set")
    steps(own, data, out, steps=2)
    for more in ({"lr": 1e-3}, {"rank": 3}, {"seed": 1}, {"kernel": "pfgmpp:128"}, {"drop": 0.2}, {"held_out": 0.4}):
        with pytest.raises(ValueError, match="belong to another recipe or codec, other data or settings"):
            steps(own, data, out, **({"steps": 2} | more))
    assert [step.step for step in steps(own, data, out, steps=3) if step.stage == "train"] == [3]
    assert read(out).steps == 3
    assert [step for step in steps(own, data, out, steps=3) if step.stage == "train"] == [], "it is finished"
    films(tmp_path / "set", texts=TEXTS[:1])
    with pytest.raises(ValueError, match="other data or settings"):
        steps(own, data, out, steps=4)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ranks": 3}, "unknown setting 'ranks'"),
        ({"rank": 0}, "rank is 0"),
        ({"lr": 2.0}, "lr is 2.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"steps": 3, "epochs": 2}, "steps and epochs were both given"),
        ({"drop": 1}, "drop is 1"),
        ({"fit": "stretch"}, "fit is 'stretch'"),
        ({"batch": 2, "accumulate": 3}, "accumulate is 3 with a batch of 2"),
        ({"kernel": "pfgmpp:2"}, "at least 8"),
        ({"modality": "xray"}, "unknown modality"),
        ({"window": "lung"}, "values of cxr have no unit"),
        ({"size": 64}, "makes 32 pixels"),
        ({"targets": "attend"}, "no module of tiny is called 'attend'"),
        ({"targets": ("full", "text")}, "give it alone"),
        ({"modality": "ct", "window": "lungs"}, "window 'lungs'"),
    ],
)
def test_a_wrong_setting_is_named(own: Path, folder: Path, tmp_path: Path, more: dict[str, Any], said: str) -> None:
    backbone = load(own)
    given = {k: v for k, v in FAST.items() if k != "steps" or "epochs" not in more} | more
    with pytest.raises(ValueError, match=said):
        list(train(backbone, Dataset(folder), out=tmp_path / "mine", **given))
    assert not backbone.carried


def test_what_lies_there_is_not_written_over(finished: Path, own: Path, folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "mine")
    with pytest.raises(ValueError, match="holds an adapter that this training did not make"):
        steps(own, folder, tmp_path / "mine")
    with pytest.raises(ValueError, match="carries adapters already"):
        list(train(load(own, adapter=finished), Dataset(folder), out=tmp_path / "other", **FAST))


def test_as_another_adapter_says(own: Path, folder: Path, finished: Path, tmp_path: Path) -> None:
    steps(own, folder, tmp_path / "a", kernel="pfgmpp:128", targets=("to_q",), task="effusion", alpha=4, steps=1)
    given = {k: v for k, v in FAST.items() if k not in ("rank", "licence")}
    list(train(load(own), Dataset(folder), out=tmp_path / "b", like=tmp_path / "a", **(given | {"steps": 1})))
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    for name in ("kernel", "targets", "task", "alpha", "rank", "modality", "licence", "sha256"):
        assert getattr(a, name) == getattr(b, name), name


def test_nothing_of_reports_or_patients_is_written_anywhere(own: Path, tmp_path: Path) -> None:
    words = "Zanzibar"
    data = films(
        tmp_path / "set", texts=[f"{text} {words}." for text in TEXTS], names=[f"{words}{k}" for k in range(14)]
    )
    steps(own, data, tmp_path / "out" / "mine", preview_every=1, steps=2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert words.encode() not in path.read_bytes() and words not in str(path), path
    for path in (workshop(tmp_path / "out" / "mine"), workshop(tmp_path / "out" / "mine") / "cache"):
        assert path.stat().st_mode & 0o077 == 0, "for its owner alone"
    assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.parent.name == "cache")


def test_sheets_come_when_they_are_due_and_are_marked(own: Path, folder: Path, tmp_path: Path) -> None:
    steps(own, folder, tmp_path / "mine", preview_every=2)
    sheets = sorted(workshop(tmp_path / "mine").glob("sheet-*.png"))
    assert [sheet.stem for sheet in sheets] == ["sheet-0000002", "sheet-0000004", "sheet-0000005"]
    assert info(sheets[0])["synthetic"] is True and len(info(sheets[0])["sheet"]) == 8, "two texts, four seeds"
    assert sheets[0].read_bytes() != sheets[2].read_bytes()


def test_tensorboard_is_asked_for_by_name(own: Path, folder: Path, tmp_path: Path) -> None:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install tensorboard"):
            steps(own, folder, tmp_path / "mine", tensorboard=True)
    else:
        steps(own, folder, tmp_path / "mine", tensorboard=True)
        assert list((workshop(tmp_path / "mine") / "events").iterdir())
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_two_processes_train_one_adapter(own: Path, folder: Path, tmp_path: Path) -> None:
    """accelerate launch, on the CPU: the losses are those of one process, up to the order of sums."""
    words = ["--out", str(tmp_path / "two"), "--model", str(own), "--steps", "3", "--batch", "4", "--rank", "2"]
    words += ["--lr", "0.02", "--mixed", "no", "--ema", "0.5", "--warmup", "1", "--phrasings", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "vlgen"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, "train", str(folder), *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    steps(own, folder, tmp_path / "one", steps=3)
    weights = []
    for name in ("one", "two"):
        from safetensors.torch import load_file

        weights.append(load_file(tmp_path / name / WEIGHTS))
    assert read(tmp_path / "two").images == read(tmp_path / "one").images
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4), name
