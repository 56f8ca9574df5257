"""Merging: several adapters as one, or a backbone with its adapters folded into the weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.adapter.contract import Adapter
from vlgen.adapter.differences import Base, is_new, named_for
from vlgen.adapter.layers import Carried, tensors_of, weights_of_base
from vlgen.adapter.loading import agree, bring, drop, named
from vlgen.adapter.saving import beside_it, keep, versions
from vlgen.adapter.targets import TEXT, UNET, ends
from vlgen.adapter.weights import pack
from vlgen.files import store
from vlgen.folder import BUILT_FROM, read_json

# A low-rank change by module: (A, B) with everything that scales it inside B.
Change = tuple[Tensor, Tensor]


def merge(
    specs: Sequence[str | Path],
    backbone: Base,
    out: str | Path,
    *,
    to: str = "adapter",
    name: str = "merged",
    force: bool = False,
) -> Path:
    """Fold adapters with their scales into one, or into the model; what the backbone carries stays as it is.

    specs  as in `use`: "adapters/mine:0.8"
    to     adapter: matrices side by side, A = [A1; A2], B = [s1 a1/r1 B1, s2 a2/r2 B2], of rank r1 + r2, so that the
           sum is exact; model: a folder for --model with W + sum of s a/r B A in its weights, computed in float64

    The licences of all parts are named together, and the audits are dropped: nobody has audited the sum.
    """
    if to not in ("adapter", "model"):
        raise ValueError(f"merge to {to!r}: choose adapter or model")
    out, wanted, slots = Path(out), named(specs), []
    if any(out.resolve() == place.resolve() for place in (backbone.folder, *(folder for folder, _ in wanted))):
        raise ValueError(f"{out} is one of the things to merge: give another folder")
    try:
        for folder, scale in wanted:
            slots.append(bring(backbone, folder, scale, force))
        parts = [backbone.carried[slot] for slot in slots if backbone.carried[slot].scale != 0]
        if not parts:
            raise ValueError("nothing to merge: give adapters, with scales that are not 0")
        agree([part.adapter for part in parts])
    finally:
        for slot in slots:
            drop(backbone, slot)
    return _adapter(parts, backbone, out, name) if to == "adapter" else _model(parts, backbone, out, name)


def change(part: Carried) -> dict[str, Change]:
    """The low-rank change of a carried adapter, by "unet." or "text_encoder." and the module's name, in float64."""
    tensors = {key: value.double() for key, value in tensors_of(part).items()}
    strength = part.scale * part.adapter.alpha / part.adapter.rank
    modules = dict.fromkeys(key.partition(".lora_")[0] for key in tensors)
    return {m: (tensors[f"{m}.lora_A.weight"], strength * tensors[f"{m}.lora_B.weight"]) for m in modules}


def product(pair: Change) -> Tensor:
    """B A in the shape of the module's own weight: a matrix, or the kernel of a convolution."""
    A, B = pair
    return (B.flatten(1) @ A.flatten(1)).reshape(len(B), *A.shape[1:])


def _adapter(parts: Sequence[Carried], backbone: Base, out: Path, name: str) -> Path:
    if any(part.adapter.full for part in parts):
        raise ValueError("a full fine-tune is no LoRA: merge it to a model")
    changes = [change(part) for part in parts]
    ranks = [part.adapter.rank for part in parts]
    if sum(ranks) > 1024:
        raise ValueError(f"the ranks add up to {sum(ranks)}, above 1024: merge to a model")
    shapes: dict[str, Change] = {}
    for found in changes:
        shapes = found | shapes
    tensors: dict[str, Tensor] = {}
    for module, (A, B) in shapes.items():
        pairs = [
            found.get(module, (A.new_zeros(rank, *A.shape[1:]), B.new_zeros(len(B), rank, *B.shape[2:])))
            for found, rank in zip(changes, ranks, strict=True)
        ]
        tensors[f"{module}.lora_A.weight"] = torch.cat([pair[0] for pair in pairs]).float()
        tensors[f"{module}.lora_B.weight"] = torch.cat([pair[1] for pair in pairs], dim=1).float()
    members: dict[str, list[str]] = {}
    for module in shapes:
        members.setdefault(module.partition(".")[0], []).append(module.partition(".")[2])
    sum_ = Adapter(
        **named_for(backbone)
        | {"name": name, "rank": sum(ranks), "alpha": float(sum(ranks)), "targets": ends(members, backbone)}
        | _together([part.adapter for part in parts], backbone)
        | {"facts": _facts(parts)}
    )
    keep(backbone, out, sum_, tensors)
    return out


def _model(parts: Sequence[Carried], backbone: Base, out: Path, name: str) -> Path:
    if any(part.adapter.window for part in parts):
        raise ValueError("an adapter has a window of its own, which a model folder cannot say: merge to an adapter")
    if any(part.adapter.distilled for part in parts):
        raise ValueError("an adapter is distilled, and a model folder cannot hold its levels: merge to an adapter")
    if out.exists():
        raise ValueError(f"{out} exists: give a folder that does not")
    source = backbone.folder
    with beside_it(out) as aside:
        for file in source.rglob("*"):
            where = file.relative_to(source)
            plain = file.suffix in (".json", ".txt") or str(where) in BUILT_FROM
            if file.is_file() and len(where.parts) > 1 and plain:
                (aside / where).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, aside / where)
        for network, weights in (
            (UNET, "unet/diffusion_pytorch_model.safetensors"),
            (TEXT, "text_encoder/open_clip_model.safetensors"),
            (TEXT, "text_encoder/model.safetensors"),
        ):
            if (source / weights).is_file():
                _fold(source / weights, aside / weights, network, parts, backbone)
        index = read_json(source / "model_index.json")
        store(
            aside / "model_index.json", json.dumps(index | {"vlgen": _index(parts, backbone, name)}, indent=1).encode()
        )
        aside.rename(out)
    return out


def _index(parts: Sequence[Carried], backbone: Base, name: str) -> dict[str, Any]:
    """What a merged model says of itself: its kernel, its modalities, all licences and what went into it."""
    licences = [str(backbone.card.get("licence", "")), *(part.adapter.licence for part in parts)]
    made = list(backbone.card.get("modalities", ()))
    made += [part.adapter.modality for part in parts if part.adapter.new_modality]
    card: dict[str, Any] = {**backbone.card, "licence": _one(licences, " and "), **_facts(parts)}
    card |= {"modalities": list(dict.fromkeys(made))} if made else {}
    own = {"name": name, "size": backbone.size, "kernel": parts[0].adapter.kernel}
    return own | {"defaults": dict(backbone.defaults), "card": card}


def _fold(source: Path, target: Path, network: str, parts: Sequence[Carried], backbone: Base) -> None:
    """Write a weights file with the changes of all parts in it; tensors that none changes keep their bits and type."""
    from safetensors.torch import load_file

    tensors = load_file(source)
    changed: dict[str, Tensor] = {}
    whole = [part for part in parts if part.adapter.full] if network == UNET else []
    if whole:
        base = weights_of_base(backbone)
        for part in whole:
            for key, value in tensors_of(part).items():
                before = changed.get(key, base[key].double())
                changed[key] = before + part.scale * (value.double() - base[key].double())
        if len(whole) == 1 and whole[0].scale == 1:
            changed = {key: value.double() for key, value in tensors_of(whole[0]).items()}
    for part in parts:
        for module, pair in ({} if part.adapter.full else change(part)).items():
            if module.startswith(f"{network}."):
                key = _key(module.removeprefix(f"{network}."), tensors)
                changed[key] = changed.get(key, tensors[key].double()) + product(pair)
    store(target, pack(tensors | {key: value.float() for key, value in changed.items()}))


def _key(module: str, tensors: Mapping[str, Tensor]) -> str:
    """The name of a module's weight in a file; transformers' files may put the model's own name before it."""
    exact = f"{module}.weight"
    found = [exact] if exact in tensors else [key for key in tensors if key.endswith(f".{exact}")]
    if len(found) != 1:
        raise ValueError(f"the base's file has no weight of module {module!r}: it cannot be merged into a model")
    return found[0]


def _together(adapters: Sequence[Adapter], backbone: Base) -> dict[str, Any]:
    """What several contracts say together: sums of counts, names that all share, all licences."""
    first = adapters[0]
    same = {
        name: getattr(first, name) if len({getattr(a, name) for a in adapters}) == 1 else ""
        for name in ("modality", "body_part", "task")
    }
    data = [adapter.data_sha256 for adapter in adapters]
    joined = data[0] if len(data) == 1 else hashlib.sha256("".join(data).encode()).hexdigest()
    return {
        **same,
        "kernel": first.kernel,
        "D": first.D,
        "window": first.window if same["modality"] else None,
        "new_modality": bool(same["modality"]) and is_new(same["modality"], backbone),
        "data_sha256": joined if all(data) else "",
        "distilled": next((dict(adapter.distilled) for adapter in adapters if adapter.distilled), {}),
        **{name: sum(getattr(a, name) for a in adapters) for name in ("steps", "images", "patients")},
        "licence": _one([adapter.licence for adapter in adapters], " and "),
        "versions": versions(),
    }


def _facts(parts: Sequence[Carried]) -> dict[str, Any]:
    merged = [{"name": part.adapter.name, "scale": part.scale, "sha256": part.sha256} for part in parts]
    forced = [difference for part in parts for difference in part.forced]
    return {"merged": merged} | ({"forced": forced} if forced else {})


def _one(names: Sequence[str], between: str) -> str:
    return between.join(dict.fromkeys(name for name in names if name))
