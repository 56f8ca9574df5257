"""Adapters: LoRA weights with a contract that says which backbone they bend, and a loader that holds them to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vlgen.checkpoint import sha256
from vlgen.files import store
from vlgen.kernels import kernel
from vlgen.modality import modality

CONTRACT, WEIGHTS = "adapter.json", "pytorch_lora_weights.safetensors"
PREFIX = "unet."


@dataclass(frozen=True)
class Adapter:
    """What an adapter promises: the contract that lies beside its weights as adapter.json.

    base        name of the backbone it bends, and base_fingerprint, the sha256 of that backbone's weights
    prediction  what that backbone predicts
    modality    the modality it was trained on, "" for any
    kernel      the kernel it was trained under: "gaussian", "pfgmpp:128"
    rank, alpha LoRA's; its effect is scaled by alpha / rank
    targets     suffixes of the modules it changes: "to_q"
    sha256      of the weights file
    facts       whatever else its makers say: steps, images, licence, audit
    """

    name: str
    base: str
    base_fingerprint: str
    prediction: str
    modality: str
    kernel: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    sha256: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Base(Protocol):
    """What an adapter must know of the backbone that it bends."""

    name: str
    unet: Any
    prediction: str
    kernel: str
    adapters: dict[str, float]
    adapter_sha256: tuple[str, ...]
    modalities: tuple[str, ...]

    @property
    def fingerprint(self) -> str: ...
    def probe(self) -> Tensor: ...


def add(backbone: Base, adapter: Adapter) -> list[torch.nn.Parameter]:
    """Put a fresh adapter onto the UNet through its own add_adapter; B = 0, so that it changes nothing yet.

    Returns its parameters, in float32 and trainable.
    """
    from peft import LoraConfig

    _known(adapter)
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.targets), init_lora_weights="gaussian"
    )
    for target in adapter.targets:
        if not any(name.split(".")[-1] == target for name, _ in backbone.unet.named_modules()):
            raise ValueError(f"no module of {backbone.name} is called {target!r}: name others as targets")
    backbone.unet.add_adapter(config, adapter_name=_slot(adapter.name))
    mine = [p for name, p in backbone.unet.named_parameters() if f".{_slot(adapter.name)}." in name]
    for parameter in mine:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return mine


def save(backbone: Base, adapter: Adapter, folder: Path) -> Adapter:
    """Write an adapter that lies on the backbone: its weights, then its contract with their sha256."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save as to_bytes

    state = get_peft_model_state_dict(backbone.unet, adapter_name=_slot(adapter.name))
    named = {PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()}
    _finite(named, adapter.name)
    folder.mkdir(parents=True, exist_ok=True)
    weights = store(folder / WEIGHTS, to_bytes(named, metadata={"format": "pt"}))
    signed = Adapter(**{**asdict(adapter), "targets": tuple(adapter.targets), "sha256": sha256(weights)})
    store(folder / CONTRACT, json.dumps(asdict(signed), indent=1, sort_keys=True).encode())
    return signed


def load(backbone: Base, folder: str | Path) -> Adapter:
    """Put a saved adapter onto the backbone it was made for, at scale 1.

    Refuses, with a ValueError naming the first difference: another base, weights whose sha256 is not the contract's,
    keys that do not match module for module, values that are not finite, weights without any effect, and pickles.
    """
    from peft.utils import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    adapter = read(folder)
    if adapter.base_fingerprint != backbone.fingerprint:
        raise ValueError(
            f"adapter {folder} was made for {adapter.base} ({adapter.base_fingerprint[:12]}), not for {backbone.name} "
            f"({backbone.fingerprint[:12]}): load that model"
        )
    if adapter.prediction != backbone.prediction:
        raise ValueError(f"adapter {folder} is for {adapter.prediction}, but {backbone.name} is {backbone.prediction}")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"adapter {folder} has no {WEIGHTS}: weights must be safetensors under that name")
    if sha256(weights) != adapter.sha256:
        raise ValueError(
            f"the weights of adapter {folder} are not those of its contract (sha256 differs): get them again"
        )
    try:
        named = load_file(weights)
    except (SafetensorError, OSError):
        raise ValueError(f"{weights} is not a safetensors file: no other format is read") from None
    _finite(named, str(folder))
    if strange := [name for name in named if not name.startswith(PREFIX)]:
        raise ValueError(f"adapter {folder} holds {strange[0]!r}, but its keys must begin with {PREFIX!r}")
    parameters = add(backbone, adapter)
    try:
        own = get_peft_model_state_dict(backbone.unet, adapter_name=_slot(adapter.name))
        given = {name.removeprefix(PREFIX): value for name, value in named.items()}
        for name in sorted(own.keys() ^ given.keys()):
            lacks = "lacks" if name in own else "has the unknown"
            raise ValueError(f"adapter {folder} {lacks} key {name!r}: it does not fit {backbone.name}")
        for name, value in given.items():
            has, wants = tuple(value.shape), tuple(own[name].shape)
            if has != wants:
                raise ValueError(f"adapter {folder}: {name!r} is {has}, but {backbone.name} wants {wants}")
            own[name].data.copy_(value)  # the state dict holds the live tensors
        backbone.unet.set_adapters([_slot(adapter.name)], [0.0])
        without = backbone.probe()
        backbone.unet.set_adapters([_slot(adapter.name)], [1.0])
        if torch.equal(backbone.probe(), without):
            raise ValueError(f"adapter {folder} changes nothing: its weights have no effect on {backbone.name}")
    except BaseException:
        backbone.unet.delete_adapters(_slot(adapter.name))
        raise
    for parameter in parameters:
        parameter.requires_grad_(False)
    return adapter


def use(backbone: Base, specs: Sequence[str | Path]) -> list[Adapter]:
    """Load adapters and let them act together; what the backbone carries is noted in every file it makes.

    specs  folders, each with its scale after a colon if that is not 1: "adapters/mine:0.8"

    Raises ValueError for kernels that differ: weights that were trained for different noise do not add up.
    """
    folders = [_scaled(str(spec)) for spec in specs]
    for folder, scale in folders:
        if not math.isfinite(scale) or abs(scale) > 10:
            raise ValueError(f"the scale {scale} of adapter {folder}: give a number from -10 to 10, such as 0.8")
    kernels = [read(folder).kernel for folder, _ in folders]
    if len({folder.resolve() for folder, _ in folders}) < len(folders):
        raise ValueError("an adapter was given twice: give it once, with the scale that is meant")
    if len({kernel(name).D for name in kernels}) > 1:
        raise ValueError(f"adapters of kernels {', '.join(kernels)} do not add up: use one kernel")
    loaded = [load(backbone, folder) for folder, _ in folders]
    if loaded:
        backbone.unet.set_adapters([_slot(adapter.name) for adapter in loaded], [scale for _, scale in folders])
        backbone.adapters = {str(folder): scale for folder, scale in folders}
        backbone.adapter_sha256 = tuple(adapter.sha256 for adapter in loaded)
        backbone.modalities = tuple(adapter.modality for adapter in loaded if adapter.modality)
        backbone.kernel = loaded[0].kernel
    return loaded


def _scaled(spec: str) -> tuple[Path, float]:
    folder, colon, scale = spec.rpartition(":")
    try:
        return (Path(folder), float(scale)) if colon else (Path(spec), 1.0)
    except ValueError:
        return Path(spec), 1.0


def read(folder: Path) -> Adapter:
    """The contract in a folder; a ValueError names what is missing or unknown in it."""
    try:
        found = json.loads((folder / CONTRACT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"unknown adapter {str(folder)!r}: give a folder with an {CONTRACT}") from None
    names = {each.name for each in fields(Adapter)}
    required = names - {"facts"}
    if not isinstance(found, dict) or set(found) - names or required - set(found):
        wrong = sorted(set(found) ^ names) if isinstance(found, dict) else ["everything"]
        raise ValueError(
            f"{folder / CONTRACT} lacks or does not know {wrong[0]!r}: its fields are {', '.join(sorted(names))}"
        )
    try:
        adapter = Adapter(**{**found, "targets": tuple(found["targets"])})
        _known(adapter)
    except TypeError:
        raise ValueError(
            f"{folder / CONTRACT} has a field of the wrong type: compare it with a shipped adapter"
        ) from None
    return adapter


def _known(adapter: Adapter) -> None:
    texts = {name: getattr(adapter, name) for name in ("name", "base", "base_fingerprint", "prediction", "sha256")}
    for name, value in {**texts, "modality": adapter.modality, "kernel": adapter.kernel}.items():
        if not isinstance(value, str):
            raise ValueError(f"the {name} of an adapter is {value!r}: its contract wants text there")
    if type(adapter.rank) is not int or not 1 <= adapter.rank <= 1024 or not 0 < adapter.alpha < math.inf:
        raise ValueError(f"adapter {adapter.name}: rank {adapter.rank} and alpha {adapter.alpha} must be above 0")
    if not _slot(adapter.name) or not adapter.targets or not all(isinstance(t, str) for t in adapter.targets):
        raise ValueError(f"adapter {adapter.name!r} needs a name and the names of the modules it changes")
    kernel(adapter.kernel)
    if adapter.modality:
        modality(adapter.modality)


def _slot(name: str) -> str:
    """The adapter's name as a module name, which may hold no dot."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _finite(named: Mapping[str, Tensor], where: str) -> None:
    for name, value in named.items():
        if not bool(value.isfinite().all()) or float(value.abs().max()) > 1e4:
            raise ValueError(f"adapter {where}: {name!r} holds values that are not finite or above 1e4: it is damaged")
