"""The loop of every training: batches from a counter, AdamW, averaged weights, checkpoints that resume exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen import checkpoint
from vlgen.precision import quick
from vlgen.tensors import counter
from vlgen.train.log import cut, write


@dataclass(frozen=True)
class Training:
    """How a network is optimized: AdamW, linear warm-up, cosine decay, and an exponential average of the weights.

    ema  the average's decay per step; it starts lower and grows as (1 + step) / (10 + step)
    """

    steps: int
    batch: int
    lr: float
    warmup: int
    ema: float
    weight_decay: float
    save_minutes: float
    sheet_minutes: float


@dataclass(frozen=True)
class Task:
    """What is trained.

    network  the module whose parameters are trained
    loss     (network, indices of the step, step) -> (scalar loss, figures to log)
    indices  step -> the rows of its batch
    sheet    (averaged network, path) -> None: writes a picture of where training stands
    export   (averaged network) -> None: writes the finished parts
    stamp    a hash of what the result depends on, the number of steps apart; checkpoints of another are refused
    layout   memory format of the trained weights
    """

    network: nn.Module
    loss: Callable[[nn.Module, list[int], int], tuple[Tensor, dict[str, float]]]
    indices: Callable[[int], list[int]]
    sheet: Callable[[nn.Module, Path], None]
    export: Callable[[nn.Module], None]
    stamp: str
    layout: torch.memory_format = torch.channels_last


@dataclass(frozen=True)
class Step:
    """One step of training: its number of how many, its figures, and images a second since the start."""

    stage: str
    step: int
    steps: int
    figures: dict[str, float]
    images_per_second: float


def precision() -> str:
    """The mixed precision that this machine computes quickly: "bf16" where it has bfloat16 units, else "no"."""
    return "bf16" if quick("cuda" if torch.cuda.is_available() else "cpu") else "no"


def device() -> torch.device:
    """The device that `run` trains on, as accelerate chooses it."""
    from accelerate import PartialState

    found: torch.device = PartialState().device
    return found


def run(
    task: Task,
    training: Training,
    folder: Path,
    *,
    stage: str,
    seed: int,
    mixed: str | None = None,
    accumulate: int = 1,
    sheet_every: int = 0,
) -> Iterator[Step]:
    """Train, yielding every step; repeat the call with the same folder and it goes on from the last checkpoint.

    accumulate   parts that a step's batch is computed in, one after the other; their gradients are added
    sheet_every  a sheet after so many steps, besides those that the minutes bring; 0 for none

    The caller prints, and may stop at any time. Every random draw of step k comes from hash(seed, purpose, k), so a
    resumed run equals an uninterrupted one bit for bit on one machine with the same threads. The checkpoint of the
    last step is written after the export: where it is, the finished parts are. Raises ValueError where the folder
    holds checkpoints of another stamp, or cannot be written.
    A step whose loss or gradient is not finite is skipped and counted; three in a row raise FloatingPointError.
    """
    accelerator = _accelerator(mixed or precision())
    network = task.network
    network.to(accelerator.device, memory_format=task.layout)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.lr, weight_decay=training.weight_decay, betas=(0.9, 0.99), fused=True
    )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    start, skipped, in_a_row = _restore(folder / "checkpoints", network, optimizer, average, task.stamp)
    if start >= training.steps:
        return
    if accelerator.is_main_process:
        with _writing(folder):
            cut(folder / "log.csv", start)
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()
    saved = drawn = began = time.monotonic()
    images = 0
    for step in range(start, training.steps):
        torch.manual_seed(counter(seed, "step", step))  # dropout inside the networks
        for group in optimizer.param_groups:
            group["lr"] = training.lr * _pace(step, training)
        indices = task.indices(step)[accelerator.process_index :: accelerator.num_processes]
        buffers = [value.clone() for value in network.buffers()]
        loss, figures = _backward(accelerator, task, model, indices, step, accumulate)
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            optimizer.step()
            in_a_row = 0
            _follow(average, network, min(training.ema, (1 + step) / (10 + step)))
        else:
            skipped, in_a_row = skipped + 1, in_a_row + 1
            for value, before in zip(network.buffers(), buffers, strict=True):
                value.copy_(before)  # the running figures of a batch normalization have seen the step already
        optimizer.zero_grad()
        if in_a_row == 3:
            raise FloatingPointError(
                f"the loss of {stage} was not finite three times in a row, last at step {step}: lower its lr; the "
                "last checkpoint is good"
            )
        images += len(indices) * accelerator.num_processes
        now, last = time.monotonic(), step + 1 == training.steps
        figures = {"loss": float(loss.detach()), **figures, "skipped": float(skipped)}
        if accelerator.is_main_process:
            with _writing(folder):
                write(folder / "log.csv", step + 1, figures)
            due = sheet_every > 0 and (step + 1) % sheet_every == 0
            if last or due or now - drawn > 60 * training.sheet_minutes:
                with averaged(network, average):
                    task.sheet(network, folder / f"sheet-{step + 1:07d}.png")
                drawn = now
                network.train()
            if last:
                with averaged(network, average):
                    task.export(network)
            if last or now - saved > 60 * training.save_minutes:
                facts = {"skipped": skipped, "in_a_row": in_a_row, "stamp": task.stamp}
                _save(folder / "checkpoints", step + 1, network, optimizer, average, facts)
                saved = now
        yield Step(stage, step + 1, training.steps, figures, images / (time.monotonic() - began))


class averaged:
    """Inside the `with`, the network carries the averaged weights, in evaluation mode; afterwards its own again."""

    def __init__(self, network: nn.Module, average: dict[str, Tensor]) -> None:
        self.network, self.average = network, average

    def __enter__(self) -> None:
        self.own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.network.load_state_dict(self.own)


def _accelerator(mixed: str) -> Any:
    """accelerate's Accelerator in that precision, whatever the process has trained in before."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # it keeps the first precision of a process, and has no public way to change it
    return Accelerator(mixed_precision=mixed)


def _backward(
    accelerator: Any, task: Task, model: nn.Module, indices: list[int], step: int, accumulate: int
) -> tuple[Tensor, dict[str, float]]:
    """The gradient of the batch's mean loss, part by part; that loss, and the figures of the last part."""
    size = -(-len(indices) // accumulate)
    parts = [indices[k : k + size] for k in range(0, len(indices), size)]
    total: Tensor | float = 0.0
    figures: dict[str, float] = {}
    for k, part in enumerate(parts):
        apart = accelerator.no_sync(model) if k + 1 < len(parts) else nullcontext()
        with apart:
            with accelerator.autocast():
                loss, figures = task.loss(model, part, step)
            loss = loss if len(parts) == 1 else loss * (len(part) / len(indices))
            accelerator.backward(loss)
        total = total + loss.detach()
    assert isinstance(total, Tensor)
    return total, figures


def _pace(step: int, training: Training) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %."""
    warm = min(1.0, (step + 1) / max(1, training.warmup))
    return warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / training.steps)))


def _follow(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - decay)
        else:
            average[name].copy_(value)


def _save(
    folder: Path, step: int, network: nn.Module, optimizer: Any, average: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    tensors = {f"network.{name}": value.detach() for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.detach().clone() for name, value in state.items()}
    checkpoint.save(folder, checkpoint.Checkpoint(step, tensors, facts))


def _restore(
    folder: Path, network: nn.Module, optimizer: Any, average: dict[str, Tensor], stamp: str
) -> tuple[int, int, int]:
    """Put the newest whole checkpoint back; (steps done, steps skipped, of them the last in a row), or zeros."""
    found = checkpoint.latest(folder)
    if found is None:
        return 0, 0, 0
    if found.facts.get("stamp") != stamp:  # nor one from before there were stamps: nobody knows what it is of
        raise ValueError(
            f"the checkpoints in {folder} belong to another recipe or codec, other data or settings: give another "
            "--out, or remove them"
        )
    of = {kind: {} for kind in ("network", "average", "optimizer")}  # type: dict[str, dict[str, Tensor]]
    for name, value in found.tensors.items():
        kind, _, rest = name.partition(".")
        of[kind][rest] = value
    network.load_state_dict(of["network"])
    for name, value in of["average"].items():
        average[name].copy_(value)
    state = optimizer.state_dict()
    parameters = optimizer.param_groups[0]["params"]
    for name, value in of["optimizer"].items():
        index, _, key = name.partition(".")
        if value.ndim:  # the fused step walks through memory: moments must lie as their parameters do
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        state["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(state)
    return found.step, int(found.facts["skipped"]), int(found.facts.get("in_a_row", 0))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns what a full disk or a read-only folder answers into one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write into {folder} ({error.strerror}): the last checkpoint is good") from None
