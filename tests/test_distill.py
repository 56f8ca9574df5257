"""Distillation: the teacher's walks, the student's few steps, and an adapter that knows its own levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import rewrite, stored
from PIL import Image
from torch import Tensor

from vlgen.adapter import CONTRACT, WEIGHTS, check, merge, read
from vlgen.adapter.weights import unpack
from vlgen.backbone import Backbone, load
from vlgen.benchmark import fewstep as benchmark
from vlgen.benchmark.fewstep import FewStepStudy, Way
from vlgen.cli import main
from vlgen.distill import Ladder, distill, ladders, outline
from vlgen.distill import trajectories as made
from vlgen.distill.lesson import ROUND, Lesson, descend
from vlgen.distill.trajectories import Walks, ask, walk
from vlgen.generate import generate
from vlgen.guidance import cfg
from vlgen.images import info, write
from vlgen.kernels import kernel
from vlgen.plan import again, plan
from vlgen.report import Report
from vlgen.tensors import normal
from vlgen.text import Cond
from vlgen.train.stash import stashed

TEACHER = (80.0, 37.0, 19.0, 12.0, 8.0, 4.6, 2.5, 1.4, 0.7, 0.5, 0.0)
SHAPE = (4, 8, 8)
TEXT = "PA chest radiograph. No acute finding."
FAST: dict[str, Any] = {
    "nfe": (1, 2),
    "teacher_steps": 4,
    "trajectories": 12,
    "held_out": 3,
    "steps": 5,
    "batch": 4,
    "rank": 2,
    "targets": ("attention",),
    "warmup": 1,
    "lr": 2e-2,
    "ema": 0.5,
    "mixed": "no",
    "save_minutes": 0,
}


def silent(texts: Sequence[str]) -> Cond:
    n = len(texts)
    return Cond(torch.zeros(n, 1, 2), torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 2))


def exact(z: Tensor, sigma: float, below: float) -> Tensor:
    """Where the exact path goes for images that are N(0, I): z sqrt((1 + sigma'^2) / (1 + sigma^2))."""
    return z * (1 + below**2) ** 0.5 / (1 + sigma**2) ** 0.5


def exact_walks(base: Backbone, folder: Path, count: int, name: str = "gaussian") -> Walks:
    """The exact paths of images that are N(0, I), at every level but the first."""
    noise = kernel(name)
    seeds = tuple(range(100, 100 + count))
    start = noise.noise(SHAPE, TEACHER[0], seeds)
    z = torch.stack([exact(start, TEACHER[0], sigma) for sigma in TEACHER[1:]], 1)
    from safetensors import safe_open

    file = safe_open(stashed(folder / "walks.safetensors", {"z": z.half()}), framework="pt")
    first = replace(plan(base, TEXT), kernel=noise)
    return Walks(first, tuple(range(1, len(TEACHER))), seeds, ("",) * count, (file,), silent)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(own: Path) -> Backbone:
    return load(own)


@pytest.fixture(scope="module")
def student(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "few"
    list(distill(load(own), out=out, **FAST))
    return out


# Ladders.


def test_no_two_counts_share_a_level_and_all_but_the_first_are_the_teachers() -> None:
    found = ladders((4, 1, 2), TEACHER)
    assert [ladder.nfe for ladder in found] == [1, 2, 4]
    levels = [sigma for ladder in found for sigma in ladder.sigmas[:-1]]
    assert len(set(levels)) == len(levels) == 7, "the network is told nothing but the level"
    for ladder in found:
        assert ladder.rungs[0] == 0 and ladder.rungs[-1] == 10 and ladder.sigmas[-1] == 0
        assert all(above > below for above, below in pairwise(ladder.sigmas))
        assert ladder.sigmas[1:] == tuple(TEACHER[rung] for rung in ladder.rungs[1:])
    assert found[0].sigmas == (80, 0) and found[1].rungs == (0, 5, 10) and found[2].rungs == (0, 2, 4, 7, 10)


def test_a_ladder_alone_is_spread_evenly_from_the_teachers_own_start() -> None:
    assert ladders([5], TEACHER) == (Ladder((80.0, 19.0, 8.0, 2.5, 0.7, 0.0), (0, 2, 4, 6, 8, 10)),)


@pytest.mark.parametrize(
    ("counts", "teacher", "said"),
    [((1, 2, 4), TEACHER[-4:], "3 steps"), ((), TEACHER, "no evaluations"), ((0, 1), TEACHER, "evaluations"),
     ((1, 3), (10.0, 9.0, 4.0, 0.0), "too near")],
)  # fmt: skip
def test_ladders_that_cannot_be_are_refused(counts: tuple[int, ...], teacher: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ladders(counts, teacher)


# The lesson, where the truth is known.


@pytest.mark.parametrize("name", ["gaussian", "pfgmpp:16"])
def test_a_student_that_knows_the_way_misses_nothing_at_any_step(base: Backbone, tmp_path: Path, name: str) -> None:
    """x0 = (z' - (sigma' / sigma) z) / (1 - sigma' / sigma) lands on z'; the start is n times the ladder's level."""
    walks, down = exact_walks(base, tmp_path, 3, name), ladders((1, 2, 4), TEACHER)
    levels = [torch.tensor(ladder.sigmas) for ladder in down]  # float32, as the student is told them
    below = {float(row[i]): float(row[i + 1]) for row in levels for i in range(len(row) - 1)}
    starts = {float(row[0]) for row in levels}

    def knows(z: Tensor, sigma: Tensor, _: Cond) -> Tensor:
        found = []
        for x, s in zip(z, sigma.tolist(), strict=True):
            to = below[s]
            there = exact(x / s * TEACHER[0], TEACHER[0], to) if s in starts else exact(x, s, to)
            found.append((there - to / s * x) / (1 - to / s))
        return torch.stack(found)

    parts = list(descend(knows, walks, [0, 1, 2], down, torch.ones(3, dtype=torch.bool), torch.device("cpu"), SHAPE))
    assert [part.places for part in parts] == [(0, 1, 2), (1, 2), (2,), (2,)], "all first steps together, then the next"
    for part in parts:  # float16 keeps 11 bits of z, whose values are up to 80 / sqrt(2) here, and of the last about 1
        assert float((part.error.sqrt() / part.z.std()).max()) < 2**-9


def test_what_a_step_misses_counts_as_an_error_of_x0(base: Backbone, tmp_path: Path) -> None:
    walks, down = exact_walks(base, tmp_path, 1), ladders((2,), TEACHER)
    none = lambda z, *_: torch.zeros_like(z)  # noqa: E731
    [first, second] = descend(none, walks, [0], down, torch.tensor([True]), torch.device("cpu"), SHAPE)
    there = walks.at([0], [5]), walks.ends([0])
    n = normal(SHAPE, [100])
    share = TEACHER[5] / 80
    assert torch.allclose(first.z, TEACHER[5] * n, rtol=1e-5), "x0 = 0 leaves the noise alone"
    wanted = ((TEACHER[5] * n - there[0]) / (1 - share)).square().mean()
    assert torch.allclose(first.error, wanted, rtol=1e-4)
    assert torch.allclose(second.error, there[1].square().mean(), rtol=1e-4), "the last step lands on x0 itself"


def test_a_student_goes_on_from_where_it_is_or_from_where_the_teacher_was(base: Backbone, tmp_path: Path) -> None:
    walks, down = exact_walks(base, tmp_path, 2), ladders((2,), TEACHER) * 2
    met: list[Tensor] = []
    scale = torch.tensor(0.3, requires_grad=True)

    def wrong(z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        met.append(z)
        return scale * z

    parts = list(descend(wrong, walks, [0, 1], down, torch.tensor([True, False]), torch.device("cpu"), SHAPE))
    assert torch.equal(met[1][0], parts[0].z[0].detach()) and torch.equal(met[1][1], walks.at([1], [5])[0])
    assert not met[1].requires_grad, "no gradient goes back through an earlier step"


def test_the_loss_is_the_rounded_root_and_the_counts_take_turns(base: Backbone, tmp_path: Path) -> None:
    walks, down = exact_walks(base, tmp_path, 6), ladders((1, 2), TEACHER)
    base_ = replace(base)
    base_.size = 8 * base.factor
    lesson = Lesson(base_, walks, down, learned=4, seed=3)
    none = lambda z, *_: torch.zeros_like(z)  # noqa: E731
    loss, figures = lesson.loss(none, [0, 1, 2, 3], 0)  # type: ignore[arg-type]
    assert [lesson.row(k) for k in (0, 2, 4, 6)] == [lesson.row(k) for k in (1, 3, 5, 7)], "each walk down each ladder"
    assert (
        sorted(lesson.row(2 * k) for k in range(4)) == [0, 1, 2, 3] == sorted(lesson.row(8 + 2 * k) for k in range(4))
    )
    rows, own = [lesson.row(k) for k in range(4)], torch.zeros(4, dtype=torch.bool)
    errors = {}
    for mine in (own, ~own):  # of this student, own or not matters in the second steps alone
        parts = descend(none, walks, rows, [*down, *down], mine, torch.device("cpu"), SHAPE)
        errors[bool(mine[0])] = [part.error for part in parts]
    first, last = errors[True]
    wanted = torch.cat([((part + ROUND**2).sqrt() - ROUND) for part in (first, last)]).mean()
    assert torch.allclose(loss, wanted) and torch.allclose(errors[False][1], last), "x0 = 0 ends at 0 from anywhere"
    assert figures == pytest.approx({"miss_1": float(first[[0, 2]].mean().sqrt()), "miss_2": float(last.mean().sqrt())})


# The teacher.


def test_walks_are_the_solvers_own_and_are_walked_once(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "SHARD", 4)
    monkeypatch.setattr(made, "TOGETHER", 3)
    asked = ask(base, (), 7, 2, steps=4, seed=5)
    steps = walk(base, asked, [2, 4], tmp_path, mixed="no")
    list(islice((step for step in steps if step.stage == "walk"), 4))  # the first file is written, the second is not
    steps.close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("walks-*")}
    assert len(before) == 1
    walks = finish(walk(base, asked, [4, 2], tmp_path, mixed="no"))
    assert len(walks) == 9 and all(path.stat().st_mtime_ns == when for path, when in before.items())
    for k in (0, 5, 8):
        one = asked.plans[k]
        states = []
        with torch.inference_mode():
            cond, without = base.embed([one.prompt]), base.embed([""])
            guided = cfg(base.denoiser(cond), base.denoiser(without), 2.0)
            z = normal(base.shape, one.seeds) * float(one.sigmas[0])
            states = [state.x for state in one.solver(guided, z, one.sigmas)]
        # float16 has 11 bits; guidance 2 of two batches differs in float32 rounding
        for rung in (2, 4):
            assert torch.allclose(walks.at([k], [rung]), states[rung - 1], rtol=2**-10, atol=1e-3)
    assert torch.equal(walks.noise([3], base.shape), normal(base.shape, [asked.seeds[3]]))


def test_walk_k_is_the_same_however_many_there_are(base: Backbone, tmp_path: Path) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,text\na.png,Brain MRI. Findings: glioma.\nb.png,Brain MRI. No tumor.\n")
    other = tmp_path / "other.csv"
    other.write_text("file_name,text\nc.png,PA chest radiograph. Small left pleural effusion.\n")
    few, many = (ask(base, [tmp_path, other], n, 2, seed=1) for n in (6, 10))
    assert few.seeds == many.seeds[:8] and few.prompts == many.prompts[:8] and len(many.seeds) == 12
    assert len(set(many.seeds)) == 12
    kinds = [Report.parse(prompt).modality for prompt in many.prompts]
    assert kinds == ["mri", "cxr"] * 6, "tables take turns"
    assert many.prompts[1] == "PA chest radiograph. Small left pleural effusion.", "its own words"
    assert len(set(many.prompts[3::4])) > 1, "and new phrasings of the same facts"


def finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


# The distillation.


def test_the_adapter_says_what_it_is(student: Path, own: Path) -> None:
    adapter = read(student)
    said = adapter.distilled
    assert said["solver"] == "euler" and said["steps"] == 2 and said["guidance_scale"] == 2.0
    assert [len(row) - 1 for row in said["levels"]] == [1, 2]
    assert adapter.images == adapter.patients == 0 and adapter.steps == 5 and len(adapter.data_sha256) == 64
    assert "1 or 2 evaluations" in adapter.task and adapter.facts["teacher"].startswith("dpmpp_2m, 4 steps, 8 eval")
    figures = [row for row in adapter.audit.values() if isinstance(row, dict)]
    assert len(figures) == 2 and all(row["n"] == 3 and row["beside"] > 0 for row in figures)
    tensors, _ = unpack(student / WEIGHTS)
    assert all(value.dtype == torch.float16 for value in tensors.values())
    assert [said for said in check(student, load(own)) if "licence" not in said] == []
    assert (student.with_name("few.training") / "sheet-0000005.png").is_file()


def test_a_killed_distillation_gives_the_same_adapter(student: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "few"
    for many in (1, 3):
        steps = distill(load(own), out=out, **FAST)
        list(islice((step for step in steps if step.stage == "distill"), many))
        steps.close()
        assert not out.exists()
    with pytest.raises(ValueError, match="another recipe"):
        list(distill(load(own), out=out, **FAST | {"lr": 1e-2}))
    backbone = load(own)
    rest = [step.step for step in distill(backbone, out=out, **FAST) if step.stage == "distill"]
    assert rest[0] > 1 and rest[-1] == 5
    assert (out / WEIGHTS).read_bytes() == (student / WEIGHTS).read_bytes()
    assert (out / CONTRACT).read_bytes() == (student / CONTRACT).read_bytes()
    assert list(backbone.adapters) == [str(out)], "it is carried when all is over"
    assert [step.stage for step in distill(load(own), out=out, **FAST)][-1] != "distill", "nothing is left to do"


def test_it_learns(own: Path, tmp_path: Path) -> None:
    """Two walks are soon known by heart; what is missed after the last step falls at every count."""
    out = tmp_path / "few"
    more = {"trajectories": 2, "steps": 16, "targets": ("wide",), "rank": 4, "save_minutes": 9}
    found = [step.figures for step in distill(load(own), out=out, **FAST | more) if step.stage == "distill"]
    for name in ("loss", "miss_1", "miss_2"):
        assert found[-1][name] < 0.9 * found[0][name], name


def test_the_audits_before_is_the_base_itself(student: Path, base: Backbone, tmp_path: Path) -> None:
    asked = ask(base, (), 12, 3, steps=4)
    walks = finish(walk(base, asked, [2, 4], tmp_path, mixed="no"))
    levels = read(student).distilled["levels"][0]
    far = []
    with torch.inference_mode():
        for k in range(12, 15):
            z = normal(base.shape, [asked.seeds[k]]) * levels[0]
            x0 = base.denoise(z, torch.tensor(levels[0]), base.embed([asked.prompts[k]]))
            far.append(float((x0 - walks.ends([k])).square().mean().sqrt()))
    said = read(student).audit["distance to the teacher's end, 1 evaluation"]["before"]
    assert said == pytest.approx(sum(far) / 3, rel=1e-3)  # float16 of the teacher's end


@pytest.mark.parametrize(
    ("more", "said"),
    [({"nfe": (1, 2, 4)}, "give it more steps"), ({"nfe": (0,)}, "nfe"), ({"lr": 2.0}, "lr"), ({"rank": 0}, "rank"),
     ({"targets": ("full",)}, "full"), ({"speed": 3}, "unknown setting 'speed'"), ({"held_out": 1}, "held_out"),
     ({"kernel": "cauchy"}, "kernel"), ({"mixed": "fp8"}, "mixed")],
)  # fmt: skip
def test_what_cannot_be_distilled_is_refused(base: Backbone, tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(distill(base, out=tmp_path / "x", **FAST | more))
    assert not list(tmp_path.iterdir())


def test_neither_a_student_nor_a_foreign_folder_is_a_place_to_begin(student: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="carries adapters"):
        list(distill(load(own, adapter=student), out=tmp_path / "x", **FAST))
    stored(own, tmp_path / "other")
    with pytest.raises(ValueError, match="did not make"):
        list(distill(load(own), out=tmp_path / "other", **FAST))


def test_a_kernel_that_the_weights_do_not_know_is_noted(base: Backbone, tmp_path: Path) -> None:
    said = list(outline(base, out=tmp_path / "x", **FAST | {"kernel": "pfgmpp:32"}))
    assert any("kernel pfgmpp:32" in line for line in said) and "random contrast" in said[-1]
    assert base.carried == {} and not list(tmp_path.iterdir())


# What a call takes of it.


def test_a_call_takes_the_students_own_defaults(student: Path, own: Path) -> None:
    backbone, levels = load(own, adapter=student), read(student).distilled["levels"]
    todo = plan(backbone, TEXT)
    assert (todo.solver.name, todo.steps, todo.nfe, todo.guidance_scale) == ("euler", 2, 2, 1.0)
    assert todo.schedule == "distilled" and todo.notes == ()
    assert todo.sigmas.tolist() == pytest.approx(levels[1])
    one = plan(backbone, TEXT, steps=1)
    assert one.sigmas.tolist() == pytest.approx(levels[0]) and one.notes == () and one.nfe == 1
    assert plan(load(own), TEXT).solver.name != "euler", "the base keeps its own"


def test_its_images_are_eulers_from_its_own_levels(student: Path, own: Path, tmp_path: Path) -> None:
    backbone = load(own, adapter=student)
    images = generate(backbone, TEXT, seeds=[4])
    sigmas = read(student).distilled["levels"][1]
    with torch.inference_mode():
        cond, z = backbone.embed([TEXT]), normal(backbone.shape, [4]) * sigmas[0]
        for sigma, below in pairwise(sigmas):
            x0 = backbone.denoise(z, torch.tensor(sigma), cond)
            z = x0 + below / sigma * (z - x0)
        x = (backbone.decode(z).clamp(-1, 1) + 1) / 2
    assert torch.allclose(images.shown(), x, atol=1e-4)  # the published tolerance between batches
    found = info(write(images, tmp_path)[0])
    assert found["sigmas"] == pytest.approx(sigmas) and found["schedule"] == "distilled"
    assert "--schedule distilled" in again(found)
    repeated = generate(backbone, TEXT, seeds=[4], steps=2, solver="euler", schedule="distilled", guidance_scale=1.0)
    assert torch.equal(repeated.pixels, images.pixels)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"steps": 3}, "distilled for 1 and 2 steps"), ({"guidance_scale": 3.0}, "guidance 2 by heart: 3"),
     ({"solver_name": "heun"}, "solver euler, and heun")],
)  # fmt: skip
def test_a_call_beyond_what_was_distilled_is_noted(student: Path, own: Path, more: dict[str, Any], said: str) -> None:
    todo = plan(load(own, adapter=student), TEXT, **more)
    assert len(todo.notes) == 1 and said in todo.notes[0]
    assert (todo.schedule == "distilled") == ("steps" not in more), "its levels are those that it knows, guided or not"


def test_at_another_scale_or_beside_others_it_says_so(student: Path, own: Path, tmp_path: Path) -> None:
    weak = plan(load(own, adapter=f"{student}:0.5"), TEXT)
    assert weak.schedule == "distilled" and "acts at 0.5" in weak.notes[0]
    stored(own, tmp_path / "mine", facts={"task": "x"})
    both = plan(load(own, adapter=[tmp_path / "mine", student]), TEXT)
    assert both.steps == 2 and both.schedule == "distilled" and "without test-lora" in both.notes[0]
    off = plan(load(own, adapter=[tmp_path / "mine", f"{student}:0"]), TEXT)
    assert off.schedule != "distilled" and off.notes == (), "one at scale 0 is not there"


def test_levels_that_are_not_there_are_refused_and_others_can_be_asked_for(student: Path, own: Path) -> None:
    backbone = load(own, adapter=student)
    with pytest.raises(ValueError, match="distilled for 3 steps"):
        plan(backbone, TEXT, steps=3, schedule_name="distilled")
    with pytest.raises(ValueError, match="distilled for 3 steps"):
        plan(load(own), TEXT, schedule_name="distilled")
    assert plan(backbone, TEXT, schedule_name="karras").schedule == "karras"


def test_two_students_do_not_add_up(student: Path, own: Path, tmp_path: Path) -> None:
    stored(own, tmp_path / "two", facts={"distilled": read(student).distilled})
    with pytest.raises(ValueError, match="use one of them"):
        load(own, adapter=[student, tmp_path / "two"])


def test_a_merged_adapter_keeps_the_levels_and_a_model_cannot(student: Path, own: Path, tmp_path: Path) -> None:
    stored(own, tmp_path / "mine", facts={"task": "x"})
    backbone = load(own)
    merge([student, tmp_path / "mine"], backbone, tmp_path / "both")
    assert read(tmp_path / "both").distilled == read(student).distilled
    assert plan(load(own, adapter=tmp_path / "both"), TEXT).schedule == "distilled"
    with pytest.raises(ValueError, match="distilled"):
        merge([student], backbone, tmp_path / "model", to="model")


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"steps": True}, {"levels": []}, {"levels": [[1.0, 2.0, 0.0]]}, {"levels": [[2.0, 1.0]]},
     {"levels": [[2.0, 0.0], [3.0, 0.0]]}, {"levels": [[float("inf"), 0.0]]}, {"solver": "magic"}, {"solver": 4},
     {"guidance_scale": -1}, {"guidance_scale": "3"}, {"more": 1}],
)  # fmt: skip
def test_a_contract_that_cannot_be_is_refused(student: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / CONTRACT).write_text((student / CONTRACT).read_text())
    rewrite(tmp_path, distilled=dict(read(student).distilled) | change)
    with pytest.raises(ValueError):
        read(tmp_path)


def test_a_contract_without_the_field_is_one_of_an_ordinary_adapter(own: Path, tmp_path: Path) -> None:
    stored(own, tmp_path)
    found = json.loads((tmp_path / CONTRACT).read_text())
    assert found.pop("distilled") == {}
    (tmp_path / CONTRACT).write_text(json.dumps(found))
    assert read(tmp_path).distilled == {} and plan(load(own, adapter=tmp_path), TEXT).schedule != "distilled"


# The commands.


def test_the_command_distills_and_its_mistakes_are_sentences(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "--out", str(tmp_path / "few"), "--model", str(own), "--nfe", "1", "--teacher-steps", "3"]
    words += ["--trajectories", "4", "--held-out", "2", "--steps", "2", "--batch", "2", "--rank", "1", "--targets"]
    words += ["to_q", "--warmup", "0", "--mixed", "no"]
    for more in (["--dry-run"], []):
        with pytest.raises(SystemExit) as left:
            main(words + more)
        out = capsys.readouterr().out
        assert left.value.code == 0
        assert ("student of 1 evaluation: 80 0" in out and "MiB" in out) if more else "the adapter is in" in out
        assert (tmp_path / "few").exists() == (not more)
    with pytest.raises(SystemExit) as left:
        main([*words, "--nfe", "1,2,4"])
    assert left.value.code == 2 and "give it more steps" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twenty-four small images without meaning, and a table of two reports."""
    real, texts = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("texts")
    for k in range(24):
        x = (normal((1, 32, 32), [k])[0, 0] * 40 + 128).clamp(0, 255).byte()
        Image.fromarray(x.numpy()).save(real / f"{k}.png")
    (texts / "metadata.csv").write_text(f"file_name,text\na.png,{TEXT}\nb.png,Brain MRI. No tumor.\n")
    return real, texts


def test_the_benchmark_compares_like_with_like(
    student: Path, own: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "DRAWS", 40)
    given: dict[str, Any] = {"model": str(own), "count": 10, "repeats": 1, "folder": tmp_path}
    study = FewStepStudy(*folders, str(student), **given)
    rows = {row.way: row for row in study.run()}
    many, two = rows[Way("model", 20)], rows[Way("student", 2)]
    assert list(rows) == study.ways() and len(rows) == 8 and all(row.n == 10 for row in rows.values())
    assert many.ratio[0] == 1 and many.nfe == 40 and many.guidance_scale == 2
    assert rows[Way("model", 2)].nfe == 4 and rows[Way("model", 2, 1.0)].nfe == 2 == two.nfe
    assert (
        two.ratio[0] == pytest.approx(two.frechet[0] / many.frechet[0]) and two.ratio[1] < two.ratio[0] < two.ratio[2]
    )
    assert many.wall_ms > two.wall_ms > 0 and many.cpu_ms > two.cpu_ms > 0
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 8
    again_ = {row.way: row for row in FewStepStudy(*folders, str(student), **given).run()}
    assert all(again_[way].frechet == row.frechet for way, row in rows.items())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept, "nothing is made twice"


def test_the_benchmark_wants_a_student(own: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    stored(own, tmp_path / "mine")
    with pytest.raises(ValueError, match="does not say that it is distilled"):
        list(FewStepStudy(*folders, str(tmp_path / "mine"), model=str(own)).run())
