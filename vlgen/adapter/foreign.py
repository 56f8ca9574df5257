"""Foreign files: LoRA as diffusers, PEFT and kohya's scripts lay it down, read as pairs of matrices by module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.adapter.differences import Base
from vlgen.adapter.targets import TEXT, UNET, branch, towers
from vlgen.adapter.weights import LORA, finite, header, unpack

PEFT_WEIGHTS, PEFT_CONFIG, PEFT = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
KOHYA = {UNET: "lora_unet_", TEXT: "lora_te_"}


@dataclass(frozen=True)
class Pair:
    """One module's LoRA as a file has it: A, B, and the alpha of alpha / rank."""

    A: Tensor
    B: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.A)


# What PEFT's LoRA can be besides plain: each changes what the matrices mean, or needs more than them.
_NOT_PLAIN = ("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora", "alora_invocation_tokens",
              "monteclora_config", "layer_replication", "target_parameters", "modules_to_save", "arrow_config",
              "kasa_config", "velora_config")  # fmt: skip
# Their starts change the base's own weights, against which the matrices are then to be read.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def pairs_in(source: Path, backbone: Base) -> tuple[dict[str, Pair], dict[str, str], str]:
    """LoRA pairs by network and module name, the file's metadata, and whose format it is.

    Raises ValueError for what is no plain LoRA of safetensors, and for a key that means no module of the backbone.
    """
    if source.is_dir() and (source / PEFT_CONFIG).is_file():
        pairs, metadata = _of_peft(source, UNET, backbone)
        if (source / TEXT / PEFT_CONFIG).is_file():
            more, _ = _of_peft(source / TEXT, TEXT, backbone)
            pairs |= more
        return pairs, metadata, "peft"
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if len(files) != 1:
        raise ValueError(f"{source} holds {len(files)} safetensors files: give the one that is meant")
    tensors, metadata = unpack(files[0])
    finite({k: v for k, v in tensors.items() if not k.endswith(".alpha")}, files[0].name)
    if any(".lora_down." in key for key in tensors):
        return _of_kohya(tensors, backbone), metadata, "kohya"
    return _of_diffusers(tensors, header(metadata, LORA) or {}, backbone), metadata, "diffusers"


def _of_peft(folder: Path, part: str, backbone: Base) -> tuple[dict[str, Pair], dict[str, str]]:
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{folder / PEFT_CONFIG} is not a LoRA's: it names no r and lora_alpha") from None
    if kind[0] != "LORA":
        raise ValueError(f"{folder} is PEFT's {kind[0]}: give plain LoRA")
    _plain(config)
    tensors, metadata = unpack(folder / PEFT_WEIGHTS)
    finite(tensors, folder.name)
    named = {f"{part}.{key.removeprefix(PEFT)}": value for key, value in tensors.items()}
    return _scaled(_paired(named, backbone), {part: config}), metadata


def _of_diffusers(tensors: Mapping[str, Tensor], said: Mapping[str, Any], backbone: Base) -> dict[str, Pair]:
    """diffusers takes alpha for the rank where the header does not say it, and so does this."""
    configs = {
        part: {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")}
        for part in KOHYA
    }
    return _scaled(_paired(tensors, backbone), {part: config for part, config in configs.items() if config})


def _scaled(pairs: Mapping[str, Pair], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Pair]:
    """Pairs with the alphas that the configurations of their networks' LoRA, in PEFT's words, give them."""
    for config in configs.values():
        _plain(config)
    found = {}
    for module, pair in pairs.items():
        part, _, name = module.partition(".")
        config = configs.get(part, {})
        alpha = _of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", pair.alpha))
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise ValueError("the file names an alpha that is no number: give plain LoRA")
        root = pair.rank**0.5 if config.get("use_rslora") else 1  # Kalajdzievski 2023, arXiv:2312.03732
        found[module] = replace(pair, alpha=float(alpha * root))
    return found


def _plain(config: Mapping[str, Any]) -> None:
    """Refuse a configuration of anything but two matrices over an unchanged base."""
    odd = [name for name in _NOT_PLAIN if config.get(name)]
    odd += ["bias"] * (config.get("bias", "none") != "none")
    start = str(config.get("init_lora_weights", "")).lower()
    odd += [f"init_lora_weights {start}"] * start.startswith(_MOVES_BASE)
    if odd:
        raise ValueError(f"the file is PEFT's LoRA with {', '.join(odd)}: give plain LoRA")


def _of_pattern(pattern: object, name: str, otherwise: object) -> object:
    """The value for a module by PEFT's rule: the first key that, as a regular expression, ends the module's name."""
    for key, value in pattern.items() if isinstance(pattern, Mapping) else ():
        try:
            if re.match(rf"(.*\.)?({key})$", name):
                return value
        except re.error:
            raise ValueError("the file has an alpha_pattern that is no regular expression: give plain LoRA") from None
    return otherwise


def _paired(tensors: Mapping[str, Tensor], backbone: Base) -> dict[str, Pair]:
    """A and B of each module, of alpha = rank as long as nothing else is said."""
    halves: dict[str, dict[str, Tensor]] = {}
    names = {part: set(_names(tower)) for part, tower in towers(backbone).items()}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        module, mark, which = rest.partition(".lora_")
        for lead in ("", "text_model."):  # transformers 5 flattened its CLIP; older files say text_model
            fits = [m for m in (module, lead + module, module.removeprefix(lead)) if m in names.get(part, ())]
            if fits:
                break
        if not mark or which not in ("A.weight", "B.weight") or not fits:
            raise ValueError(f"key {key!r} means no module of {backbone.name}: the file is for another model or format")
        halves.setdefault(f"{part}.{fits[0]}", {})[which[0]] = value
    pairs = {}
    for module, both in halves.items():
        if len(both) != 2:
            raise ValueError(f"the LoRA of module {module!r} has one matrix of two: the file is not whole")
        A, B = both["A"], both["B"]
        if A.ndim < 2 or B.ndim != A.ndim or not len(A) == B.shape[1] > 0:
            raise ValueError(
                f"the LoRA of module {module!r} is of shapes {tuple(A.shape)} and {tuple(B.shape)}: no pair"
            )
        pairs[module] = Pair(A, B, float(len(A)))
    if not pairs:
        raise ValueError("the file holds no LoRA matrices")
    return pairs


def _of_kohya(tensors: Mapping[str, Tensor], backbone: Base) -> dict[str, Pair]:
    """kohya writes underscores for dots, which only the backbone's own names undo."""
    known: dict[str, str] = {}
    for part, tower in towers(backbone).items():
        for name in _names(tower):
            for lead in ("", "text_model.") if part == TEXT else ("",):
                flat = (lead + name).replace(".", "_")
                known |= {KOHYA[part] + flat: f"{part}.{name}"}
                known |= {f"lora_te1_{flat}": f"{part}.{name}"} if part == TEXT else {}
    named: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, value in tensors.items():
        stem, _, rest = key.partition(".")
        which = {"lora_down.weight": "A", "lora_up.weight": "B", "alpha": "alpha"}.get(rest)
        if stem not in known or which is None:
            raise ValueError(f"key {key!r} means no module of {backbone.name}: the file is for another model or format")
        if which == "alpha":
            if value.numel() != 1:
                raise ValueError(f"key {key!r} holds {value.numel()} numbers, and must hold one: the file is damaged")
            alphas[known[stem]] = float(value)
        else:
            named[f"{known[stem]}.lora_{which}.weight"] = value
    pairs = _paired(named, backbone)
    return {module: replace(pair, alpha=alphas.get(module, pair.alpha)) for module, pair in pairs.items()}


def leveled(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Pairs of one rank and one alpha with the same products: zeros to the largest rank, alpha / rank inside B."""
    rank = max(pair.rank for pair in pairs.values())
    found = {}
    for module, pair in pairs.items():
        A, B = pair.A.float(), pair.B.float() * (pair.alpha / pair.rank)
        more = rank - pair.rank
        A = torch.cat([A, A.new_zeros(more, *A.shape[1:])])
        B = torch.cat([B, B.new_zeros(len(B), more, *B.shape[2:])], dim=1)
        found[module] = Pair(A, B, float(rank))
    return found


def _names(tower: nn.Module) -> list[str]:
    """The modules of a network that can take LoRA, by their plain names."""
    from peft.tuners.lora import LoraLayer

    prefix, inner = branch(tower)
    kinds = (nn.Linear, nn.Conv2d, LoraLayer)
    found = [prefix + name for name, module in inner.named_modules() if isinstance(module, kinds)]
    return [name for name in found if ".lora_" not in name and not name.endswith("base_layer")]
