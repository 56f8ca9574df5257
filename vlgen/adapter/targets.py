"""Targets: which modules of a UNet and of a text tower an adapter changes, by the ends of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vlgen.adapter.contract import FULL, Adapter
from vlgen.adapter.differences import Base

UNET, TEXT = "unet", "text_encoder"
MARK = "text:"  # before the name of a module of the text tower

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WIDE = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "conv")
# Linear layers of the text towers, those of transformers' CLIP and those of open_clip's.
TOWERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), ("c_fc", "c_proj")
GROUPS = ("attention", "wide", "text", "full")


def towers(backbone: Base) -> dict[str, nn.Module]:
    """The networks that an adapter may change, by the prefix of their weights in an adapter's file."""
    return {UNET: backbone.unet, TEXT: backbone.text.tower}


def branch(tower: Any) -> tuple[str, Any]:
    """The part of a network that takes adapters, and where it lies: of open_clip's CLIP, the text half alone."""
    return ("transformer.", tower.transformer) if hasattr(tower, "token_embedding") else ("", tower)


def resolve(backbone: Base, targets: str | Sequence[str]) -> tuple[str, ...]:
    """Groups and names of modules as the ends of modules' names, "text:" before those of the text tower.

    attention  queries, keys, values and output of every attention in the UNet
    wide       attention, its projections, feed-forward and the convolutions
    text       attention, and the linear layers of the text tower: of transformers' CLIP all of them, of open_clip's
               those of its MLPs. open_clip's attention is PyTorch's, with one packed matrix for queries, keys and
               values: LoRA on its out_proj would have no effect at all, and LoRA on the whole of it adds and subtracts
               its change at every call, so that the base drifts. Both are refused.
    full       every weight of the UNet
    """
    asked = [targets] if isinstance(targets, str) else list(targets)
    if "full" in asked:
        if asked != list(FULL):
            raise ValueError(f"targets {', '.join(asked)}: full changes every weight, so give it alone")
        return FULL
    found: list[str] = []
    for name in asked:
        if name in ("attention", "wide"):
            found += [end for end in (ATTENTION if name == "attention" else WIDE) if _ending(backbone.unet, end)]
        elif name == "text":
            open_clip = hasattr(backbone.text.tower, "token_embedding")
            found += [*ATTENTION, *(MARK + end for end in TOWERS[open_clip])]
        else:
            found.append(name)
    if not found:
        raise ValueError(f"no targets were given: choose of {', '.join(GROUPS)}, or name modules such as to_q")
    return tuple(dict.fromkeys(found))


def modules(backbone: Base, targets: Sequence[str]) -> dict[str, list[str]]:
    """The full names of the modules that targets end, by network; a ValueError names a target that ends none."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, list[str]] = {}
    for target in targets:
        part = TEXT if target.startswith(MARK) else UNET
        end = target.removeprefix(MARK)
        tower = towers(backbone)[part]
        prefix, inner = branch(tower)
        names = [prefix + name for name in _ending(inner, end.removeprefix(prefix))]
        if not names:
            where = "" if part == UNET else "the text tower of "
            raise ValueError(f"no module of {where}{backbone.name} is called {end!r}: name others as targets")
        for name in names:
            parent = tower.get_submodule(name.rpartition(".")[0])
            if not isinstance(tower.get_submodule(name), nn.Linear | nn.Conv2d | LoraLayer) or isinstance(
                parent, nn.MultiheadAttention
            ):
                raise ValueError(f"module {name!r} of {backbone.name} takes no LoRA: name linear or convolution layers")
        found.setdefault(part, []).extend(name for name in names if name not in found.get(part, ()))
    return found


def described(targets: Sequence[str]) -> str:
    """The group that targets are, or their names."""
    of_unet = [target for target in targets if not target.startswith(MARK)]
    names = "wide" if "ff.net.2" in of_unet else "attention" if set(of_unet) == set(ATTENTION) else ", ".join(of_unet)
    return names + (" and text" if len(of_unet) < len(targets) else "")


def for_diffusers(adapter: Adapter) -> dict[str, Any]:
    """What a weights file says for diffusers: rank and alpha, without which it would take alpha for the rank."""
    found: dict[str, Any] = {}
    for part in (UNET, TEXT):
        inside = [t.removeprefix(MARK) for t in adapter.targets if t.startswith(MARK) == (part == TEXT)]
        if inside:
            alpha = int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha
            found |= {f"{part}.r": adapter.rank, f"{part}.lora_alpha": alpha, f"{part}.target_modules": sorted(inside)}
    return found


def ends(names: Mapping[str, Sequence[str]], backbone: Base) -> tuple[str, ...]:
    """The shortest targets that mean these modules and no others: an end where every module with it is there."""
    found: list[str] = []
    known = dict(zip((UNET, TEXT), ((*WIDE,), (*TOWERS[0], *TOWERS[1])), strict=True))
    for part, present in names.items():
        prefix, inner = branch(towers(backbone)[part])
        left = set(present)
        for end in known[part]:
            meant = {prefix + name for name in _ending(inner, end)}
            if meant and meant <= left:
                left -= meant
                found.append((MARK if part == TEXT else "") + end)
        found += [(MARK if part == TEXT else "") + name for name in sorted(left)]
    return tuple(found)


def _ending(network: nn.Module, end: str) -> list[str]:
    """Names of the modules that end so; what LoRA put inside another is not counted."""
    names = [n for n, _ in network.named_modules() if n and "lora_" not in n and "base_layer" not in n]
    return [name for name in names if name == end or name.endswith(f".{end}")]
