"""Tune: the fine-tune itself, from a folder and a backbone to an adapter, step by step."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlgen import kernels
from vlgen.adapter import CONTRACT, add, amend, load, read, save, use
from vlgen.adapter.contract import slug
from vlgen.adapter.layers import weights_of_base, whole
from vlgen.adapter.loading import drop
from vlgen.adapter.targets import MARK
from vlgen.backbone import Backbone
from vlgen.checkpoint import latest
from vlgen.dataset import Dataset
from vlgen.files import store
from vlgen.tensors import counter
from vlgen.text import Cond
from vlgen.train.audit import Losses, audit, sentences
from vlgen.train.job import Job, bounded, job, kind_of
from vlgen.train.latents import Latents, States, latents, states
from vlgen.train.loop import Step, Task, Training, precision, run
from vlgen.train.losses import error, levels, measured, some
from vlgen.train.network import Trained, arranged, layout
from vlgen.train.pictures import FEATURES, asked_for, can_be_asked, made, pictures, real
from vlgen.train.preview import preview
from vlgen.train.settings import Settings
from vlgen.train.stash import private
from vlgen.train.survey import survey

STAGE = "train"
Told = Callable[[Sequence[str]], Cond | Sequence[str]]  # texts as the network takes them: their states, or themselves


def train(
    backbone: Backbone, data: Dataset, *, out: str | Path, like: str | Path | None = None, **settings: Any
) -> Iterator[Step]:
    """Fine-tune an adapter on a folder of images and reports, yielding every step; repeat the call to resume.

    out       folder of the finished adapter. Beside it, in OUT.training, lie log.csv, contact sheets, checkpoints and
              what was computed once of images and reports: for nobody but the user, and never to be shared
    like      an adapter whose contract says what is not given here
    settings  those of `vlgen.train.Settings`: rank=16, targets="attention", steps=2000, kernel="pfgmpp:128", ...

    A Step's stage is read, encode and embed while the data is prepared, then train, then audit. A run that was killed
    at any moment gives, when it is repeated, the adapter of an uninterrupted one bit for bit, on one machine with the
    same threads. When it is over the backbone carries the adapter; when training is left early it is as it was.

    Raises ValueError in one sentence for what cannot be done, and FloatingPointError where three steps in a row were
    not finite; the checkpoints stay good.
    """
    from accelerate import PartialState

    out = Path(out)
    asked = Settings.of(settings, like=like)
    state = PartialState()
    check(backbone, asked, out, processes=state.num_processes)
    kind = kind_of(data, asked)
    for part in (backbone.unet, backbone.codec, backbone.text.tower):
        part.to(state.device)
    folder = private(workshop(out))
    with state.main_process_first():
        cache = private(folder / "cache")
        found = yield from survey(data.rows, kind, backbone.size, asked.fit, cache)
        bounded((*data.refused, *found.refused), asked.max_bad)
        todo = job(backbone, data, asked, kind, found, out)
        z = yield from latents(backbone, todo.rows, todo.digests, kind, asked.fit, cache)
    mixed = todo.settings.mixed or precision()
    with carried(backbone, todo.settings) as parameters:
        with state.main_process_first():
            told = (
                _themselves
                if reads_text(backbone)
                else partial(_states, (yield from states(backbone, todo.captions.all(), cache)))
            )
            lesson = _Lesson(backbone, todo, z, told, Trained(backbone, parameters))
            before = lesson.before(folder)
        with arranged(backbone, mixed) as arrangement:
            yield from lesson.steps(out, folder, arrangement, before)
        state.wait_for_everyone()
    if state.is_main_process and todo.settings.audit:
        yield from _looked_at(backbone, todo, out, cache)
    state.wait_for_everyone()
    if not backbone.carried:
        load(backbone, out)


def workshop(out: Path) -> Path:
    """The folder beside an adapter's own in which it is made."""
    return out.with_name(f"{out.name}.training")


def check(backbone: Backbone, asked: Settings, out: Path, *, processes: int = 1) -> None:
    """Raise a ValueError for what cannot be trained, before anything is read."""
    if backbone.carried:
        raise ValueError(f"{backbone.name} carries adapters already: load the model without them to train another")
    if backbone.precision != "float32":
        raise ValueError(f"{backbone.name} computes in {backbone.precision}: load it in float32 to train an adapter")
    if asked.size not in (None, backbone.size):
        raise ValueError(
            f"size {asked.size}: {backbone.name} makes {backbone.size} pixels, and its adapters are of that size; "
            "leave the size out, or take another model"
        )
    if asked.batch % processes:
        raise ValueError(f"a batch of {asked.batch} cannot be shared among {processes} processes: give a multiple")
    if (out / CONTRACT).exists() and latest(workshop(out) / "checkpoints") is None:
        raise ValueError(f"{out} holds an adapter that this training did not make: give another --out")


def _looked_at(backbone: Backbone, todo: Job, out: Path, cache: Path) -> Generator[Step, None, None]:
    """Add to the audit of a finished adapter what its images are worth; nothing where that is done already."""
    done = read(out).audit
    if done.get("images") == todo.settings.audit:
        return
    texts = asked_for(todo, todo.settings.audit)
    beside = yield from real(todo, backbone.size, FEATURES, cache)
    before = None
    if can_be_asked(backbone, todo):
        before = yield from made(backbone, texts, FEATURES, cache)
    load(backbone, out)
    after = yield from made(backbone, texts, FEATURES, cache)
    found = {**done, **pictures(todo.settings.seed, before, after, texts, beside), "images": todo.settings.audit}
    amend(out, {"audit": found | {"in words": sentences(found)}})


@contextmanager
def carried(backbone: Backbone, given: Settings) -> Iterator[list[nn.Parameter]]:
    """Inside the `with` the backbone carries a fresh adapter as the settings say, and its parameters are given.

    Afterwards the backbone is as it was before.
    """
    alpha = None if given.full else given.alpha
    trained = add(
        backbone, given.name, rank=given.rank, alpha=alpha, targets=given.targets, kernel=given.kernel, seed=given.seed
    )
    try:
        yield trained
    finally:
        drop(backbone, slug(given.name))
        use(backbone, [])  # so that the backbone no longer says that it carries one
        if given.full:
            base = weights_of_base(backbone)
            for name, live in whole(backbone).items():
                live.data.copy_(base[name])
        backbone.unet.requires_grad_(False).eval()
        backbone.text.tower.requires_grad_(False)


def reads_text(backbone: Backbone) -> bool:
    """Whether an adapter on the backbone changes its text tower, so that texts must be read in every step."""
    return any(target.startswith(MARK) for c in backbone.carried.values() for target in c.adapter.targets)


def _themselves(texts: Sequence[str]) -> Sequence[str]:
    return texts


def _states(found: States, texts: Sequence[str]) -> Cond:
    return found(texts)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """A job with all that its steps need at hand."""

    backbone: Backbone
    job: Job
    latents: Latents
    told: Told
    network: Trained

    def cond(self, texts: Sequence[str]) -> Cond | Sequence[str]:
        found = self.told(texts)
        if not isinstance(found, Cond):
            return found
        device = self.backbone.device
        return Cond(found.states.to(device), found.mask.to(device), found.pooled.to(device))

    def loss(self, model: nn.Module, numbers: list[int], _: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the draws of these numbers; a draw's row, text and noise follow from its number alone."""
        given, device = self.job.settings, self.backbone.device
        rows = [self.job.row(number) for number in numbers]
        seeds = [counter(given.seed, "draw", number) for number in numbers]
        texts = [self.job.captions.draw(row, number) for row, number in zip(rows, numbers, strict=True)]
        sigma = levels(seeds, self.backbone).to(device)
        z = self.latents[rows].to(device)
        found = error(model, z, sigma, seeds, kernels.kernel(given.kernel), self.cond(texts), given.weighting)
        return found.mean(), {}

    def losses(self) -> Losses:
        """The losses of at most 128 held-out rows, and of as many that training sees, by their own words."""
        given = self.job.settings
        found = [
            measured(
                self.backbone,
                self.network.denoise,
                self.latents,
                some(rows, given.seed),
                kernels.kernel(given.kernel),
                given.weighting,
                lambda rows: self.cond([self.job.captions.texts[row][0] for row in rows]),
            ).tolist()
            for rows in (self.job.test, self.job.train)
        ]
        return Losses(*found)

    def before(self, folder: Path) -> Losses:
        """The losses of the base, measured once."""
        path, stamp = folder / "before.json", self.job.stamp(self.backbone)
        if path.is_file():
            try:
                found = json.loads(path.read_text())
                if found["stamp"] == stamp:
                    return Losses(found["held_out"], found["seen"])
            except (ValueError, KeyError):
                pass  # torn: measured again
        now = self.losses()
        store(path, json.dumps({"stamp": stamp, "held_out": now.held_out, "seen": now.seen}).encode())
        return now

    def steps(self, out: Path, folder: Path, arrangement: arranged, before: Losses) -> Generator[Step, None, None]:
        """Walk through the steps, and write the adapter at the last."""
        given, backbone, mixed = self.job.settings, self.backbone, arrangement.mixed
        assert given.steps and given.lr is not None and given.warmup is not None

        def export(_: nn.Module) -> None:
            with arrangement.resting():
                self.network.settle(given.targets)
                save(backbone, out, name=given.name, facts=self.facts(before, mixed), fresh=given.fresh)

        def sheet(_: nn.Module, path: Path) -> None:
            with arrangement.resting():
                preview(backbone, self.job, path)

        task = Task(
            self.network,
            self.loss,
            lambda step: list(range(step * given.batch, (step + 1) * given.batch)),
            sheet,
            export,
            self.job.stamp(backbone),
            layout(backbone.device, mixed),
        )
        course = Training(
            given.steps, given.batch, given.lr, given.warmup, given.ema, given.weight_decay, given.save_minutes, 1e9
        )
        board = None
        for step in run(
            task,
            course,
            folder,
            stage=STAGE,
            seed=given.seed,
            mixed=mixed,
            accumulate=given.accumulate,
            sheet_every=given.preview_every,
        ):
            if given.tensorboard:
                board = board or _board(folder, step.step)
                for name, value in step.figures.items():
                    board.add_scalar(name, value, step.step)
            yield step
        if board is not None:
            board.close()

    def facts(self, before: Losses, mixed: str) -> dict[str, Any]:
        """What the contract states of this training; numbers and hashes, nothing of a report or a patient."""
        given, todo = self.job.settings, self.job
        found: dict[str, Any] = {
            "task": given.task,
            "kernel": given.kernel,
            "modality": todo.kind.name,
            "body_part": given.body_part,
            "window": todo.kind.window if given.window else None,
            "steps": given.steps,
            "data_sha256": todo.manifest,
            "images": len(todo.train),
            "patients": len(todo.patients) if any(todo.rows[k].patient for k in todo.train) else 0,
            "licence": given.licence,
            "audit": audit(before, self.losses()),
        }
        trained = {name: getattr(given, name) for name in ("batch", "lr", "ema", "drop", "weighting", "fit", "seed")}
        held_out = {"held_out_images": len(todo.test), "copies": len(todo.copies), "refused_rows": len(todo.refused)}
        return found | trained | held_out | {"precision": "float32" if mixed == "no" else mixed}


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("TensorBoard is not installed: pip install tensorboard, or leave --tensorboard out") from None
    return SummaryWriter(str(folder / "events"), purge_step=step)  # type: ignore[no-untyped-call]
