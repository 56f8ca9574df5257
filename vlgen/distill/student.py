"""Student: the distillation itself, from a backbone to an adapter that needs few evaluations, step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlgen.adapter import CONTRACT, load
from vlgen.adapter.contract import slug
from vlgen.adapter.layers import activate, lora
from vlgen.adapter.loading import scales
from vlgen.adapter.saving import keep, stated
from vlgen.backbone import Backbone
from vlgen.checkpoint import latest
from vlgen.distill.ladders import Ladder, ladders
from vlgen.distill.lesson import Lesson
from vlgen.distill.settings import Settings
from vlgen.distill.trajectories import Asked, ask, walk
from vlgen.files import store
from vlgen.images import fit
from vlgen.plan import digest
from vlgen.sheet import png, sheet
from vlgen.train import Settings as Tuning
from vlgen.train.loop import Step, Task, Training, precision, run
from vlgen.train.network import Trained, arranged, layout
from vlgen.train.stash import private
from vlgen.train.tune import carried, workshop

STAGE, SOLVER = "distill", "euler"
SHOWN, SIDE = 6, 128  # images of a sheet's row, and pixels a side of each
_FREE = ("steps", "save_minutes", "name", "licence")  # what the trained weights do not depend on


@dataclass(frozen=True)
class Course:
    """A distillation with everything resolved and checked.

    asked    the walks of the teacher
    ladders  one for each count of evaluations, the fewest first
    mixed    bf16 or no
    notes    what the user should know
    """

    settings: Settings
    asked: Asked
    ladders: tuple[Ladder, ...]
    mixed: str
    notes: tuple[str, ...]

    @property
    def rungs(self) -> tuple[int, ...]:
        """The teacher's places that are kept; its start is not among them, for the seed gives it."""
        return tuple(sorted({rung for ladder in self.ladders for rung in ladder.rungs} - {0}))

    @property
    def manifest(self) -> str:
        """A hash of the texts: their own hashes, sorted."""
        return hashlib.sha256(json.dumps(sorted(map(digest, self.asked.prompts))).encode()).hexdigest()

    def stamp(self, backbone: Backbone) -> str:
        """A hash of all that the trained weights depend on."""
        facts = {name: value for name, value in asdict(self.settings).items() if name not in _FREE}
        teacher = [self.asked.first.solver.name, self.asked.first.sigmas.tolist(), self.asked.first.guidance_scale]
        walks = [[seed, digest(prompt)] for seed, prompt in zip(self.asked.seeds, self.asked.prompts, strict=True)]
        words = [backbone.fingerprint, facts, teacher, [asdict(ladder) for ladder in self.ladders], walks, self.mixed]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def course(backbone: Backbone, out: Path, texts: Sequence[str | Path], given: Settings) -> Course:
    """Resolve a distillation; a ValueError says what cannot be done, before anything is computed."""
    if backbone.carried:
        raise ValueError(
            f"{backbone.name} carries adapters: distill it without them, or merge them to a model first "
            "(vlgen adapter merge --to model)"
        )
    if (out / CONTRACT).exists() and latest(workshop(out) / "checkpoints") is None:
        raise ValueError(f"{out} holds an adapter that this distillation did not make: give another --out")
    asked = ask(
        backbone,
        texts,
        given.trajectories,
        given.held_out,
        steps=given.teacher_steps,
        guidance_scale=given.guidance_scale,
        kernel_name=given.kernel,
        seed=given.seed,
    )
    if asked.first.solver.stochastic or asked.first.solver.adaptive:
        raise ValueError(
            f"the teacher's solver {asked.first.solver.name} does not repeat its walks: give the model another"
        )
    down = ladders(given.nfe, asked.first.sigmas.tolist())
    notes = dict.fromkeys(note for each in asked.plans for note in each.notes if note.startswith("kernel"))
    return Course(given, asked, down, given.mixed or precision(), tuple(notes))


def distill(
    backbone: Backbone, *, out: str | Path, texts: Sequence[str | Path] = (), **settings: Any
) -> Iterator[Step]:
    """Distill a model into an adapter that needs few evaluations and no guidance, yielding every step.

    out       folder of the finished adapter. Beside it, in OUT.training, lie log.csv, a contact sheet, checkpoints and
              the teacher's walks
    texts     tables of reports, or folders with one, in turn; where there are none, reports are composed
    settings  those of `vlgen.distill.Settings`: nfe=(1, 2, 4), trajectories=4000, steps=800, ...

    The teacher, the model under its own solver, levels and guidance, walks from noise to images once; then LoRA learns
    to take the same walks in few of Euler's steps (trajectory distillation: Zhou et al. 2024, arXiv:2409.19681), with
    the guidance inside (Meng et al. 2023, arXiv:2210.03142). One set of weights serves all counts, for each has noise
    levels of its own. No image is read. Repeating the call resumes, bit for bit on one machine with the same threads.

    When it is over the backbone carries the adapter. Raises ValueError in one sentence for what cannot be done.
    """
    out = Path(out)
    todo = course(backbone, out, texts, Settings.of(settings))
    given, folder = todo.settings, private(workshop(out))
    walks = yield from walk(backbone, todo.asked, todo.rungs, private(folder / "cache"), mixed=todo.mixed)
    lesson = Lesson(backbone, walks, todo.ladders, given.trajectories, given.seed)
    tuning = tuning_of(todo, out)
    with carried(backbone, tuning) as parameters:
        network = Trained(backbone, parameters)
        with arranged(backbone, todo.mixed) as arrangement:

            def export(_: nn.Module) -> None:
                with arrangement.resting():
                    _finish(backbone, todo, lesson, network, slug(tuning.name), out)

            def draw(_: nn.Module, path: Path) -> None:
                with arrangement.resting():
                    _sheet(backbone, lesson, network, path)

            task = Task(
                network,
                lesson.loss,
                lambda step: list(range(step * given.batch, (step + 1) * given.batch)),
                draw,
                export,
                todo.stamp(backbone),
                layout(backbone.device, todo.mixed),
            )
            training = Training(
                given.steps, given.batch, given.lr, given.warmup, given.ema, 0.0, given.save_minutes, 1e9
            )
            yield from run(task, training, folder, stage=STAGE, seed=given.seed, mixed=todo.mixed)
    load(backbone, out)


def tuning_of(todo: Course, out: Path) -> Tuning:
    """The adapter that is trained, as `vlgen.train` says it."""
    given = todo.settings
    tuning = Tuning(
        rank=given.rank, targets=given.targets, kernel=todo.asked.first.kernel.name, seed=given.seed, name=given.name
    )
    return tuning.resolved(name=out.name, images=1)


def _finish(backbone: Backbone, todo: Course, lesson: Lesson, network: Trained, slot: str, out: Path) -> None:
    """Round the weights to float16, audit what they do, and write the adapter."""
    with torch.no_grad():
        for parameter in lora(backbone, slot).values():
            parameter.copy_(parameter.half())
    after = [lesson.missed(network.denoise, ladder) for ladder in todo.ladders]
    activate(backbone, {})
    before = [lesson.missed(network.denoise, ladder) for ladder in todo.ladders]
    activate(backbone, scales(backbone))
    adapter = stated(backbone.carried[slot].adapter, backbone, _facts(backbone, todo, lesson, before, after))
    keep(backbone, out, adapter, {key: value.detach().half() for key, value in lora(backbone, slot).items()})


def _facts(
    backbone: Backbone, todo: Course, lesson: Lesson, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """What the contract states: numbers and hashes, nothing of a report."""
    given, teacher = todo.settings, todo.asked.first
    counts = [ladder.nfe for ladder in todo.ladders]
    beside, audit = float(lesson.apart().mean()), dict[str, Any]()
    for ladder, base, own in zip(todo.ladders, before, after, strict=True):
        audit[f"distance to the teacher's end, {ladder.nfe} evaluation{'s' * (ladder.nfe > 1)}"] = {
            "before": float(base.mean()),
            "after": float(own.mean()),
            "n": len(own),
            "beside": beside,
            "which is": "the distance between two of the teacher's ends",
        }
    said = ", ".join(f"{float(own.mean()):.2f} in {n}" for n, own in zip(counts, after, strict=True))
    audit["in words"] = (
        f"On noise and texts that it has not seen it ends this far from where the teacher does in {teacher.nfe} "
        f"evaluations, in latents of unit variance: {said}."
    )
    return {
        "task": f"few steps: {' or '.join(map(str, counts))} evaluations, guidance {teacher.guidance_scale:g} learned",
        "kernel": teacher.kernel.name,
        "steps": given.steps,
        "data_sha256": todo.manifest,
        "licence": given.licence or str(backbone.card.get("licence", "")),
        "distilled": {
            "solver": SOLVER,
            "steps": max(counts),
            "guidance_scale": teacher.guidance_scale,
            "levels": [list(ladder.sigmas) for ladder in todo.ladders],
        },
        "audit": audit,
        "teacher": f"{teacher.solver.name}, {teacher.steps} steps, {teacher.nfe} evaluations",
        "trajectories": given.trajectories,
        "precision": "float32" if todo.mixed == "no" else todo.mixed,
        **{name: getattr(given, name) for name in ("batch", "lr", "ema", "seed")},
    }


def _sheet(backbone: Backbone, lesson: Lesson, network: Trained, path: Path) -> None:
    """Write a contact sheet: columns are held-out walks, rows the teacher's end and the student's for each count."""
    rows = list(range(lesson.learned, min(lesson.learned + SHOWN, len(lesson.walks))))
    ends = {f"teacher, {lesson.walks.plan.nfe}": lesson.walks.ends(rows)}
    for ladder in reversed(lesson.ladders):
        ends[f"student, {ladder.nfe}"] = lesson.ends(network.denoise, ladder, rows)[0]
    shown, side = [], min(SIDE, backbone.size)
    for z in ends.values():
        with torch.inference_mode():
            x = backbone.decode(z.to(backbone.device)).cpu()
        shown.append([fit(one, side) for one in (x.clamp(-1, 1) + 1) / 2])
    store(path, png(sheet(shown, list(ends)), {"synthetic": True, "sheet": [{"model": backbone.name}]}))
