"""Exchange: adapters as files of diffusers, PEFT and kohya's scripts, out and back in without a bit's change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.adapter.contract import WEIGHTS, Adapter, parsed, read, slug
from vlgen.adapter.differences import Base, differences, named_for
from vlgen.adapter.foreign import KOHYA, PEFT, PEFT_CONFIG, PEFT_WEIGHTS, leveled, pairs_in
from vlgen.adapter.loading import find
from vlgen.adapter.saving import keep, signature, stated
from vlgen.adapter.targets import MARK, TEXT, UNET, ends, for_diffusers, modules
from vlgen.adapter.weights import LORA, OWN, finite, header, pack, unpack
from vlgen.checkpoint import sha256
from vlgen.files import store

FORMATS = ("diffusers", "peft", "kohya")


def export(folder: str | Path, to: str, out: str | Path) -> Path:
    """Write an adapter as another program reads it; returns the file, or for PEFT the folder.

    out  a folder; or for diffusers and kohya the file itself, which ends in .safetensors
    to  diffusers: `pipeline.load_lora_weights(folder)`, or `unet.load_lora_adapter(folder, weight_name=..., prefix=..)`
        with the prefix "unet"; without weight_name it reads no header, and takes alpha for the rank
        peft: `PeftModel.from_pretrained(unet, folder)`; a text tower's part lies in the folder text_encoder
        kohya: lora_unet_... .lora_down, .lora_up and .alpha, for Stable Diffusion's web interfaces

    The contract travels in the header of the weights, from where `import_` takes it back.
    """
    folder, out = find(folder), Path(out)
    if to not in FORMATS:
        raise ValueError(f"format {to!r} is unknown: choose of {', '.join(FORMATS)}")
    name = ""
    if out.suffix == ".safetensors" and to != "peft":
        out, name = out.parent, out.name
    adapter = read(folder)
    if adapter.full:
        raise ValueError(f"{folder} is a full fine-tune: its unet folder is what diffusers' from_pretrained reads")
    tensors, _ = unpack(folder / WEIGHTS)
    if sha256(folder / WEIGHTS) != adapter.sha256:
        raise ValueError(f"the weights of adapter {folder} are not those of its contract (sha256 differs): check it")
    finite(tensors, str(folder))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write into {out}: {error.strerror}") from None
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} is the adapter itself: give another folder")
    own = {OWN: json.dumps(asdict(adapter))}
    if to == "diffusers":
        return store(
            out / (name or WEIGHTS), pack(tensors, own | {LORA: json.dumps(for_diffusers(adapter), sort_keys=True)})
        )
    if to == "kohya":
        said = {"ss_network_dim": str(adapter.rank), "ss_network_alpha": f"{adapter.alpha:g}"}
        named = _to_kohya(tensors, adapter)
        said |= {"ss_network_module": "networks.lora"}
        return store(out / (name or f"{slug(adapter.name)}.safetensors"), pack(named, own | said))
    for part in (UNET, TEXT):
        mine = {PEFT + key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{part}.")}
        if mine:
            place = out if part == UNET else out / TEXT
            place.mkdir(exist_ok=True)
            store(place / PEFT_WEIGHTS, pack(mine, own))
            store(place / PEFT_CONFIG, json.dumps(_peft_config(adapter, part, list(mine)), indent=1).encode())
    return out


def import_(
    source: str | Path,
    backbone: Base,
    out: str | Path,
    *,
    name: str = "",
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Adapter:
    """Read a LoRA of diffusers, PEFT or kohya's scripts for this backbone and write it with a contract; returns that.

    source  a safetensors file, or the folder that holds it
    name    and facts, as in `save`; what vlgen exported brings its own, and facts are laid over it
    force   take a file whose own contract is for another backbone or other weights; the difference is noted among the
            facts, the audit, which was of other weights, is dropped

    Modules of different ranks or alphas are brought to one: the largest rank, zeros beside the smaller ones, and their
    alpha / rank inside B. Raises ValueError for a key that means no module of the backbone, and for weights that change
    nothing.
    """
    source = Path(source)
    pairs, metadata, kind = pairs_in(source, backbone)
    own = header(metadata, OWN)
    found = parsed(own, f"the contract inside {source}") if own else None
    differs = differences(found, backbone) if found else []
    if differs and not force:
        raise ValueError(f"{source} {differs[0]}: load what it was made for, or override with force (--force-adapter)")
    alphas, ranks = {pair.alpha for pair in pairs.values()}, {pair.rank for pair in pairs.values()}
    if len(alphas) > 1 or len(ranks) > 1:
        pairs, ranks = leveled(pairs), {max(ranks)}
    rank, alpha = ranks.pop(), next(iter(pairs.values())).alpha
    if found and torch.tensor(found.alpha) == torch.tensor(alpha):  # kohya's files round alpha to float32
        alpha = found.alpha
    members: dict[str, list[str]] = {}
    for module in sorted(pairs):
        members.setdefault(module.partition(".")[0], []).append(module.partition(".")[2])
    targets = ends(members, backbone)
    if found and {k: sorted(v) for k, v in modules(backbone, found.targets).items()} == members:
        targets = found.targets
    tensors = {f"{module}.lora_A.weight": pair.A.float() for module, pair in pairs.items()}
    tensors |= {f"{module}.lora_B.weight": pair.B.float() for module, pair in pairs.items()}
    if not found:
        plain = Adapter(name=name or source.stem, rank=rank, alpha=alpha, targets=targets, **named_for(backbone))
        return keep(backbone, Path(out), stated(plain, backbone, {"imported_from": kind, **(facts or {})}), tensors)
    adapter = replace(found, **named_for(backbone), name=name or found.name, rank=rank, alpha=alpha, targets=targets)
    if signature(adapter, tensors) != found.sha256:
        differs.append("has weights that are not those of its contract (sha256 differs)")
        if not force:
            raise ValueError(f"{source} {differs[-1]}: export it again, or override with force (--force-adapter)")
    if differs:
        earlier = found.facts.get("forced")
        noted = {"forced": [*(earlier if isinstance(earlier, list) else []), *differs]}
        adapter = stated(replace(adapter, audit={}, new_modality=False), backbone, noted)
    return keep(backbone, Path(out), stated(adapter, backbone, facts) if facts else adapter, tensors)


def _to_kohya(tensors: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    found = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        module, _, which = rest.partition(".lora_")
        lead = "text_model." if part == TEXT and module.startswith("encoder.") else ""
        stem = KOHYA[part] + (lead + module).replace(".", "_")
        found[f"{stem}.{'lora_down' if which[0] == 'A' else 'lora_up'}.weight"] = value
        found[f"{stem}.alpha"] = torch.tensor(float(adapter.alpha))
    return found


def _peft_config(adapter: Adapter, part: str, keys: list[str]) -> dict[str, Any]:
    """PEFT's own configuration; the modules by name, as a pattern, so that no other tower's are meant."""
    mine = [t.removeprefix(MARK) for t in adapter.targets if t.startswith(MARK) == (part == TEXT)]
    open_clip = any(key.startswith(f"{PEFT}transformer.resblocks.") for key in keys)
    pattern = r"transformer\.(.*\.)?(" + "|".join(re.escape(end.removeprefix("transformer.")) for end in mine) + ")"
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha,
        "target_modules": pattern if open_clip else mine,
        "inference_mode": True,
    }
