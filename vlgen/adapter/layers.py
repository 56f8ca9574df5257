"""Layers: LoRA inside a backbone's networks, several adapters at once, taken out again without a trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.adapter.contract import Adapter
from vlgen.adapter.differences import Base
from vlgen.adapter.targets import UNET, branch, modules, towers
from vlgen.adapter.weights import finite, unpack
from vlgen.folder import UNETS, part
from vlgen.tensors import generator


@dataclass(frozen=True)
class Carried:
    """An adapter on a backbone.

    folder  where it was read from, "" while it is being trained
    scale   its strength; sha256, of the file that was read
    forced  the differences that were overridden to get it there, now or when it was merged or imported
    """

    adapter: Adapter
    folder: str = ""
    scale: float = 1.0
    sha256: str = ""
    forced: tuple[str, ...] = ()


def inject(backbone: Base, adapter: Adapter, slot: str, *, seed: int = 0) -> None:
    """Put LoRA under a name into the modules of the contract, through their network's own add_adapter.

    B = 0, so that nothing changes; A ~ N(0, 1 / rank), each matrix from its own seed. Both in float32.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for name, members in modules(backbone, adapter.targets).items():
        prefix, inner = branch(towers(backbone)[name])
        inside = [member.removeprefix(prefix) for member in members]
        alpha: Any = adapter.alpha  # peft writes int, and takes any number
        config = LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=inside)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
            if hasattr(inner, "add_adapter"):
                inner.add_adapter(config, adapter_name=slot)
            else:
                inject_adapter_in_model(config, inner, slot)
    for key, parameter in lora(backbone, slot).items():
        parameter.data = parameter.data.float()
        if ".lora_A." in key:
            drawn = torch.randn(parameter.shape, generator=generator("adapter", seed, key)) / adapter.rank
            parameter.data.copy_(drawn)


def lora(backbone: Base, slot: str) -> dict[str, nn.Parameter]:
    """The live LoRA matrices of a slot under the names that they have in a file."""
    found = {}
    for name, tower in towers(backbone).items():
        for key, layer in _layers(tower):
            if slot in layer.lora_A:
                found[f"{name}.{key}.lora_A.weight"] = layer.lora_A[slot].weight
                found[f"{name}.{key}.lora_B.weight"] = layer.lora_B[slot].weight
    return found


def whole(backbone: Base) -> dict[str, Tensor]:
    """Every weight of the UNet itself under its plain name, whatever LoRA lies on it."""
    found: dict[str, Tensor] = {}
    for name, value in backbone.unet.state_dict(keep_vars=True).items():
        if ".lora_" not in name:
            found[name.replace(".base_layer", "")] = value
    return found


def remove(backbone: Base, slot: str) -> None:
    """Take LoRA of a slot out of the networks; a module that carries none any more is what it was before."""
    for tower in towers(backbone).values():
        for key, layer in _layers(tower):
            if slot in layer.lora_A:
                layer.delete_adapter(slot)
            if not layer.lora_A:
                above, _, own = key.rpartition(".")
                setattr(tower.get_submodule(above), own, layer.get_base_layer())
        inner = branch(tower)[1]
        configs = getattr(inner, "peft_config", {})
        configs.pop(slot, None)
        if hasattr(inner, "peft_config") and not configs:
            del inner.peft_config
            inner._hf_peft_config_loaded = False


def activate(backbone: Base, scales: Mapping[str, float]) -> None:
    """Let the carried adapters of these slots act with these scales, and no others.

    One of scale 0 is switched off rather than multiplied by 0, so that the base is met bit for bit.
    """
    acting = [slot for slot, scale in scales.items() if scale != 0]
    for tower in towers(backbone).values():
        for _, layer in _layers(tower):
            trained = [(p, p.requires_grad) for p in layer.parameters()]
            layer.set_adapter(acting)
            for slot in acting:
                layer.set_scale(slot, scales[slot])
            for parameter, before in trained:  # peft's set_adapter turns gradients on
                parameter.requires_grad_(before)
    _blend(backbone, {slot: scales[slot] for slot in acting})


@torch.no_grad()
def _blend(backbone: Base, scales: Mapping[str, float]) -> None:
    """The UNet's weights under full fine-tunes: W = W0 + sum of scale * (W_i - W0), and W_i itself for one at 1."""
    tuned = {slot: c for slot, c in backbone.carried.items() if c.adapter.full}
    acting = {slot: (tuned[slot].sha256, scale) for slot, scale in scales.items() if slot in tuned}
    now = sorted(acting.values())
    if any(not c.folder for c in tuned.values()) or now == getattr(backbone.unet, "_blended", []):
        return  # one is being trained, or these are the weights that it has
    base = result = weights_of_base(backbone)
    for slot, (_, scale) in acting.items():
        other = tensors_of(tuned[slot])
        if len(acting) == 1 and scale == 1:
            result = other
        else:
            result = {name: value + scale * (other[name] - base[name]) for name, value in result.items()}
    for name, live in whole(backbone).items():
        live.data.copy_(result[name])
    backbone.unet._blended = now


def weights_of_base(backbone: Base) -> dict[str, Tensor]:
    """The UNet's weights as they lie in the backbone's folder, in float32."""
    return {name: value.float() for name, value in part(backbone.folder / UNET, UNETS).state_dict().items()}


def tensors_of(carried: Carried) -> dict[str, Tensor]:
    """The weights in a carried adapter's file, finite, in float32."""
    tensors, _ = unpack(Path(carried.folder) / carried.adapter.file)
    finite(tensors, carried.folder)
    return {name: value.float() for name, value in tensors.items()}


def _layers(tower: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in list(tower.named_modules()):
        if isinstance(module, LoraLayer):
            yield name, module
