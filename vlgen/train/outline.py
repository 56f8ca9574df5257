"""The outline: what a fine-tune would do, line by line, before anything is written."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlgen import kernels
from vlgen.adapter.targets import described
from vlgen.backbone import Backbone
from vlgen.dataset import Dataset
from vlgen.dataset.twins import CLUSTER
from vlgen.text import Cond
from vlgen.train.captions import tokens
from vlgen.train.job import Job, job, kind_of, passes, summary
from vlgen.train.loop import Step, precision
from vlgen.train.losses import error, levels
from vlgen.train.network import Trained, arranged
from vlgen.train.settings import Settings
from vlgen.train.survey import survey
from vlgen.train.tune import carried, check, reads_text

T = TypeVar("T")
LINES = 12  # lines of refused rows that are written out


@dataclass(frozen=True)
class Estimate:
    """What a step costs on this machine, from two of them on random latents.

    trained, all_   parameters that are trained, and all of UNet and text tower
    bytes           weights, gradients, optimizer, average and activations of a step; without what PyTorch itself takes
    seconds         of one step, wall
    """

    trained: int
    all_: int
    bytes: int
    seconds: float


def outline(
    backbone: Backbone, data: Dataset, *, out: str | Path, like: str | Path | None = None, **settings: Any
) -> Iterator[str]:
    """What `train` would do with the same words: rows and reasons, split, tokens, parameters, memory and time.

    Every image is read, nothing is written. Raises ValueError where `train` would, but for too many refused rows, which
    are listed here.
    """
    out = Path(out)
    asked = Settings.of(settings, like=like)
    check(backbone, asked, out)
    kind = kind_of(data, asked)
    todo = job(backbone, data, asked, kind, finished(survey(data.rows, kind, backbone.size, asked.fit)), out)
    given = todo.settings
    yield (
        f"adapter {given.name} in {out} | model {backbone.name} | modality {kind.name} | window {kind.window[0]:g} to "
        f"{kind.window[1]:g}{' ' * bool(kind.unit)}{kind.unit} | kernel {given.kernel} | {backbone.size} pixels, "
        f"{given.fit}"
    )
    sides = [_side(todo, name) for name in ("train", "test")]
    yield f"rows: {sides[0]} train, {sides[1]} held out | refused {len(todo.refused)} of at most {given.max_bad}"
    for shown, (reason, lines) in enumerate(summary(todo.refused).items()):
        if shown < LINES:
            some = ", ".join(map(str, lines[:5])) + ", ..." * (len(lines) > 5)
            yield f"  {len(lines)} refused: {reason} (line {some})"
    if len(todo.refused) > given.max_bad:
        yield "  too many rows are refused: training would stop here"
    read = tokens(backbone, todo.captions)
    most = backbone.text.chunks * (backbone.text.max_tokens - 2)
    yield (
        f"texts: {len(set(todo.captions.all())) - 1} of {len(todo.rows)} rows | tokens {read['mean']:.0f} on average, "
        f"{read['most']:.0f} at most, room for {most} | {read['cut']:.0f} rows are longer and lose some"
    )
    found = estimate(backbone, todo)
    with carried(backbone, given):
        of = described(next(iter(backbone.carried.values())).adapter.targets)
    rank = "" if given.full else f", rank {given.rank}, alpha {given.alpha:g}"
    yield f"parameters: {found.trained:,} trained of {found.all_:,} ({of}{rank})"
    mixed = given.mixed or precision()
    parts = f" in {given.accumulate} parts" * (given.accumulate > 1)
    yield (
        f"steps: {given.steps} of {given.batch} images{parts}, {passes(todo):.1f} passes | lr {given.lr:g} | "
        f"{'float32' if mixed == 'no' else mixed} on {backbone.device.type}"
    )
    assert given.steps
    yield (
        f"memory: about {found.bytes / 2**30:.2f} GiB and PyTorch itself | time: about "
        f"{found.seconds * given.steps / 60:.1f} min of steps, {found.seconds:.3f} s each, after reading and encoding"
    )
    for note in todo.notes:
        yield f"note: {note}"


def finished(steps: Generator[Step, None, T]) -> T:
    """What a preparation returns, its progress passed over."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def estimate(backbone: Backbone, todo: Job) -> Estimate:
    """Measure two steps of the job on random latents; the adapter is gone afterwards."""
    given, device = todo.settings, backbone.device
    mixed = given.mixed or precision()
    count = -(-given.batch // given.accumulate)
    with carried(backbone, given) as parameters:
        cond: Any = [todo.captions.texts[0][0]] * count
        if not reads_text(backbone):
            cond = backbone.embed(cond)
            assert isinstance(cond, Cond)
        network = Trained(backbone, parameters)
        saved: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        def step() -> float:
            began = time.monotonic()
            z, sigma = torch.randn(count, *backbone.shape, device=device), levels(range(count), backbone).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed == "bf16"):
                loss = error(
                    network, z, sigma, range(count), kernels.kernel(given.kernel), cond, given.weighting
                ).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.monotonic() - began

        with arranged(backbone, mixed):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                step()
            seconds = min(step(), step()) * given.accumulate
        everything = [*backbone.unet.parameters(), *backbone.text.tower.parameters()]
        trained, all_ = (sum(p.numel() for p in some) for some in (parameters, everything))
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in everything}
    # A gradient, two moments and the average of each trained number, in float32.
    return Estimate(trained, all_, sum((weights | saved).values()) + 16 * trained, seconds)


def _side(todo: Job, name: str) -> str:
    rows = [todo.rows[k] for k in (todo.train if name == "train" else todo.test)]
    patients = {row.patient or str(row.file) for row in rows}
    word = "patients" if not any(row.patient.startswith(CLUSTER) for row in rows) else "clusters of alike images"
    return f"{len(rows)} of {len(patients)} {word}"
