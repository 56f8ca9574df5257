"""The contract of an adapter: what adapter.json says, and how it is read, held to sense, and written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from vlgen.adapter.distilled import check_distilled
from vlgen.files import store
from vlgen.kernels import kernel
from vlgen.modality import modality

CONTRACT, WEIGHTS = "adapter.json", "pytorch_lora_weights.safetensors"
WHOLE = "unet/diffusion_pytorch_model.safetensors"
FULL = ("full",)


@dataclass(frozen=True)
class Adapter:
    """What an adapter promises: the contract that lies beside its weights as adapter.json.

    name, task        what it is called, and what for, in a word or two: "brain tumor type"
    base              the backbone it bends: its name, its hub revision ("" where it has none), and the sha256 of what
                      it is built from, which is the one of the three that binds
    codec             class of that backbone's autoencoder; codec_scale, what its latents are multiplied by
    prediction        what that backbone predicts: epsilon, v_prediction, sample
    text_encoder      class of its text tower; max_tokens in a chunk and the most chunks
    kernel, D         the kernel it was trained under, "pfgmpp:128"; D is None for the Gaussian's infinity
    modality          the modality it was trained on, "" for any; body_part, "" where nobody said
    new_modality      the base does not make that modality: the adapter brings it
    window            (low, high) in the modality's unit that was mapped onto [-1, 1]; None for the modality's own
    size              pixels a side
    rank, alpha       LoRA's (Hu et al. 2021, arXiv:2106.09685, section 4.1): the weights' change is alpha / rank * B A;
                      0 and 0 in a full fine-tune
    targets           suffixes of the modules it changes, "to_q", with "text:" before those of the text tower; ("full",)
    steps             optimizer steps; 0 where it was not trained by vlgen
    data_sha256       of the training data's manifest, "" where there is none; images and patients in it, 0 unknown
    distilled         of an adapter that was trained to need few evaluations: its solver, its default count of steps,
                      the levels of each count, and the guidance that it has learned; empty for all others
    licence           of the weights; audit, what the audit at the end of training found
    versions          of the libraries that wrote it
    sha256            of the weights file
    facts             whatever else its makers say in numbers
    """

    name: str
    base: str
    base_fingerprint: str
    base_revision: str
    codec: str
    codec_scale: float
    prediction: str
    text_encoder: str
    max_tokens: int
    chunks: int
    size: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    task: str = ""
    kernel: str = "gaussian"
    D: float | None = None
    modality: str = ""
    new_modality: bool = False
    body_part: str = ""
    window: tuple[float, float] | None = None
    steps: int = 0
    data_sha256: str = ""
    images: int = 0
    patients: int = 0
    distilled: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    audit: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether it is a full fine-tune, whole UNet weights in place of LoRA's."""
        return self.targets == FULL

    @property
    def file(self) -> str:
        """Where its weights lie in its folder."""
        return WHOLE if self.full else WEIGHTS


# What a trainer may state of its adapter; everything else it hands over lands under `facts`.
STATED = ("task", "kernel", "modality", "body_part", "window", "steps", "data_sha256", "images", "patients",
          "distilled", "licence", "audit")  # fmt: skip

_OPTIONAL = {"distilled"}  # of most adapters there is nothing to say

_NOT_PUBLIC = frozenset((
    "report", "reports", "text", "texts", "caption", "captions", "prompt", "prompts", "patient", "patient_id",
    "patient_ids", "patient_name", "study", "study_id", "accession", "accession_number", "file_name",
    "file_names", "path", "paths",
))  # fmt: skip
_LONGEST = 500  # characters of one string: a sentence or two of an audit, no report
_LARGEST = 1e12  # no unit of an image and no alpha comes near it; beyond, sums in float32 lose all meaning
_MOST_BYTES = 1 << 20  # of a contract: a hundred times what one takes


def read(folder: Path) -> Adapter:
    """The contract in a folder; a ValueError names what is missing, unknown or impossible in it."""
    folder = Path(folder)
    path = folder / CONTRACT
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        from vlgen.adapter.shelf import names  # which reads contracts itself

        there = f", or a name: {', '.join(names())}" if names() else ""
        raise ValueError(f"unknown adapter {str(folder)!r}: give a folder with an {CONTRACT}{there}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON: get the adapter again") from None
    return parsed(found, str(path))


def parsed(found: Any, where: str) -> Adapter:
    """A contract from what JSON gave; a ValueError names what is missing, unknown or impossible in it."""
    names = {each.name for each in fields(Adapter)}
    if not isinstance(found, dict) or set(found) | _OPTIONAL != names:
        wrong = sorted((set(found) | _OPTIONAL) ^ names) if isinstance(found, dict) else ["everything"]
        raise ValueError(f"{where} lacks or does not know {wrong[0]!r}: its fields are {', '.join(sorted(names))}")
    try:
        window = found["window"]
        adapter = Adapter(
            **found | {"targets": tuple(found["targets"]), "window": None if window is None else tuple(window)}
        )
        validate(adapter)
    except TypeError:
        raise ValueError(f"{where} has a field of the wrong type: compare it with a shipped adapter") from None
    return adapter


def write(folder: Path, adapter: Adapter) -> Path:
    """Write a contract as a whole or not at all."""
    validate(adapter)
    return store(folder / CONTRACT, json.dumps(asdict(adapter), indent=1).encode())


def validate(adapter: Adapter) -> None:
    """Raise a ValueError in one sentence for a contract that says what cannot be."""
    texts = (
        "name",
        "task",
        "base",
        "base_fingerprint",
        "base_revision",
        "codec",
        "prediction",
        "text_encoder",
        "kernel",
    )
    for name in (*texts, "modality", "body_part", "data_sha256", "licence", "sha256"):
        value = getattr(adapter, name)
        if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
            raise ValueError(
                f"the {name} of an adapter's contract must be a line of text of at most {_LONGEST} characters"
            )
    for name in ("max_tokens", "chunks", "size", "steps", "images", "patients", "rank"):
        value = getattr(adapter, name)
        if type(value) is not int or not 0 <= value < 2**53:
            raise ValueError(f"adapter {adapter.name}: {name} is {value!r}, and must be a whole number from 0")
    targets = adapter.targets
    if not slug(adapter.name) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise ValueError(f"adapter {adapter.name!r} needs a name and the names of the modules it changes")
    if adapter.full != (adapter.rank == 0) or adapter.rank > 1024:
        raise ValueError(f"adapter {adapter.name}: rank {adapter.rank} must be above 0, and at most 1024")
    if not adapter.full and not _number(adapter.alpha, above=0):
        raise ValueError(f"adapter {adapter.name}: alpha {adapter.alpha!r} must be above 0 and finite")
    if not _number(adapter.codec_scale, above=0) or not isinstance(adapter.new_modality, bool):
        raise ValueError(f"adapter {adapter.name}: codec_scale must be above 0, and new_modality true or false")
    if degrees(adapter.kernel) != adapter.D:
        raise ValueError(f"adapter {adapter.name}: D is {adapter.D}, but its kernel is {adapter.kernel}")
    if adapter.modality:
        modality(adapter.modality)
    if adapter.window is not None:
        ends = adapter.window
        if len(ends) != 2 or not all(_number(v) for v in ends) or not ends[0] < ends[1] or not adapter.modality:
            raise ValueError(f"adapter {adapter.name}: its window must be two rising numbers in its modality's unit")
    check_distilled(adapter.distilled, adapter.name)
    for name in ("audit", "facts", "versions", "distilled"):
        publishable(getattr(adapter, name), name)


def publishable(facts: object, what: str) -> None:
    """Refuse facts that are no JSON, or that could carry a report or an id; the message quotes none of them."""
    if not isinstance(facts, Mapping):
        raise ValueError(f"the {what} of an adapter must be names and values")
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"the {what} of an adapter must be finite numbers, texts and lists of them") from None
    for name, value in _walk(facts):
        if isinstance(value, str) and (len(value) > _LONGEST or str(name).lower() in _NOT_PUBLIC):
            raise ValueError(
                f"the {what} of an adapter hold a text under a name of patient data, or one of over {_LONGEST} "
                "characters: a contract is published, so give numbers and hashes"
            )


def degrees(name: str) -> float | None:
    """D of a kernel as JSON can say it: None for infinity."""
    D = kernel(name).D
    return None if math.isinf(D) else float(D)


def slug(name: str) -> str:
    """A name as a module name, which may hold no dot and be no attribute of PyTorch's own, such as "train"."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII) if re.search(r"\w", name) else ""
    return f"{found}_" if hasattr(nn.ModuleDict(), found) else found


def _walk(value: Any, name: object = "") -> Iterator[tuple[object, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield "", key
            yield from _walk(inner, key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(inner, name)
    else:
        yield name, value


def _number(value: object, *, above: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value and abs(value) <= _LARGEST
