"""Saving: weights, contract and card go into a folder together, once a fresh process has read them back."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen import __version__
from vlgen.adapter.card import CARD, card
from vlgen.adapter.contract import (
    CONTRACT,
    STATED,
    WEIGHTS,
    WHOLE,
    Adapter,
    degrees,
    publishable,
    read,
    validate,
    write,
)
from vlgen.adapter.differences import Base, is_new
from vlgen.adapter.layers import activate, lora, whole
from vlgen.adapter.loading import bring, drop, scales
from vlgen.adapter.targets import UNET, for_diffusers
from vlgen.adapter.weights import LORA, finite, narrowed, pack
from vlgen.checkpoint import sha256
from vlgen.files import store

# Across threads and kernels of one machine float32 differs by about 1e-4 of a value; on the CPU it is 0 in every test.
TOLERANCE = 1e-4


def save(backbone: Base, folder: str | Path, *, name: str, facts: Mapping[str, Any], fresh: bool = True) -> Adapter:
    """Write an adapter that lies on the backbone: its weights, its contract and its card; returns the contract.

    name   the one it was added under
    facts  what the contract states of it: task, kernel, modality, body_part, window, steps, data_sha256, images,
           patients, licence, audit; whatever else is in there lands under the contract's own `facts`. Numbers, hashes
           and short words: a contract is published, and names of patient data with a text behind them are refused
    fresh  read it back in a new process first, and compare what the network makes of one fixed latent

    Only then do the files take the place of those in the folder, the contract last. Raises ValueError where the weights
    are not finite, the folder cannot be written, or the new process does not answer the same within 1e-4 of the largest
    value (on the CPU it is the same bit for bit); what lay in the folder is then untouched.
    """
    folder = Path(folder).resolve()  # through a link, so that the new files lie on its file system
    found = [slot for slot, carried in backbone.carried.items() if carried.adapter.name == name]
    if not found:
        raise ValueError(f"{backbone.name} carries no adapter called {name!r}: add it first")
    slot = found[0]
    adapter = stated(backbone.carried[slot].adapter, backbone, facts)
    tensors: Mapping[str, Tensor] = whole(backbone) if adapter.full else lora(backbone, slot)
    finite(tensors, name)
    if not adapter.full:
        tensors = narrowed(tensors)
    with beside_it(folder) as aside:
        signed = put(aside, adapter, tensors, unet=backbone.folder / UNET)
        if fresh:
            _compare(backbone, slot, aside)
        _move(aside, folder, signed)
    return signed


def amend(folder: str | Path, facts: Mapping[str, Any]) -> Adapter:
    """Write more into the contract and the card of a saved adapter, such as an audit; its weights stay as they are."""
    folder = Path(folder)
    adapter = read(folder)
    changed = _merged(adapter, facts)
    validate(changed)
    store(folder / CARD, card(changed).encode())
    write(folder, changed)
    return changed


def keep(backbone: Base, folder: Path, adapter: Adapter, tensors: Mapping[str, Tensor]) -> Adapter:
    """Write weights that lie on no backbone, once they have been on this one and are what their contract says."""
    folder = folder.resolve()
    finite(tensors, adapter.name)
    validate(adapter)
    with beside_it(folder) as aside:
        signed = put(aside, adapter, tensors, unet=backbone.folder / UNET)
        drop(backbone, bring(backbone, aside, 1.0, force=False))
        _move(aside, folder, signed)
    return signed


def stated(adapter: Adapter, backbone: Base, facts: Mapping[str, Any]) -> Adapter:
    """A contract with what its maker states, the versions of the libraries, and whether its modality is new."""
    publishable(facts, "facts")
    changed = _merged(adapter, facts)
    new = bool(changed.modality) and is_new(changed.modality, backbone)
    changed = replace(changed, new_modality=new, versions=versions())
    validate(changed)
    return changed


def put(folder: Path, adapter: Adapter, tensors: Mapping[str, Tensor], *, unet: Path) -> Adapter:
    """Write weights, card and contract into a folder; the contract with the weights' sha256, last.

    unet  the folder of the base's UNet, whose configuration goes beside whole weights
    """
    (folder / adapter.file).parent.mkdir(parents=True, exist_ok=True)
    if adapter.full:
        shutil.copyfile(unet / "config.json", (folder / adapter.file).with_name("config.json"))
    weights = store(folder / adapter.file, _packed(adapter, tensors))
    signed = replace(adapter, sha256=sha256(weights))
    store(folder / CARD, card(signed).encode())
    write(folder, signed)
    return signed


def signature(adapter: Adapter, tensors: Mapping[str, Tensor]) -> str:
    """The sha256 that the weights file of an adapter has with these tensors."""
    return hashlib.sha256(_packed(adapter, tensors)).hexdigest()


def _packed(adapter: Adapter, tensors: Mapping[str, Tensor]) -> bytes:
    return pack(tensors, {} if adapter.full else {LORA: json.dumps(for_diffusers(adapter), sort_keys=True)})


def versions() -> dict[str, str]:
    """The versions of the libraries that a training depends on."""
    found = {"vlgen": __version__}
    for name in ("torch", "diffusers", "transformers", "peft", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _merged(adapter: Adapter, facts: Mapping[str, Any]) -> Adapter:
    changes: dict[str, Any] = {name: facts[name] for name in STATED if name in facts}
    if "kernel" in changes:
        changes["D"] = degrees(changes["kernel"])
    if changes.get("window") is not None:
        changes["window"] = tuple(float(v) for v in changes["window"])
    rest = {name: value for name, value in facts.items() if name not in STATED}
    return replace(adapter, **changes, facts={**adapter.facts, **rest})


@contextmanager
def beside_it(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is meant, gone afterwards; refused where a README.md of something else lies."""
    ours = (CONTRACT, WEIGHTS, WHOLE)  # the weights alone: a run was killed between them and the contract
    if (folder / CARD).exists() and not any((folder / name).exists() for name in ours):
        raise ValueError(f"{folder} holds a {CARD} and no adapter: give a folder of its own")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")  # no pid: in containers it comes again
    try:
        aside.mkdir(parents=True)
        yield aside
    except OSError as error:
        raise ValueError(f"cannot write into {folder.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move(aside: Path, folder: Path, adapter: Adapter) -> None:
    names = [adapter.file, CARD, CONTRACT]
    names += [str(Path(adapter.file).with_name("config.json"))] if adapter.full else []
    for name in sorted(names, key=lambda name: name == CONTRACT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, folder / name)
    (folder / (WEIGHTS if adapter.full else WHOLE)).unlink(missing_ok=True)  # of an older adapter of the other kind


# What the new process runs: nothing of this one's memory is left in it.
_AGAIN = """
import sys, torch
torch.set_num_threads(int(sys.argv[4]))
from safetensors.torch import save_file
from vlgen.backbone import load
save_file({"x": load(sys.argv[1], adapter=sys.argv[2], device=sys.argv[5]).probe()}, sys.argv[3])
"""


def _compare(backbone: Base, slot: str, folder: Path) -> float:
    """The largest difference between this process and a new one, over the largest value; refused above TOLERANCE."""
    from safetensors.torch import load_file

    unet, training = backbone.unet, backbone.unet.training
    try:
        unet.eval()
        activate(backbone, {slot: 1.0})
        mine = backbone.probe()
    finally:
        unet.train(training)
        activate(backbone, scales(backbone))
    answer = folder / "answer.safetensors"
    device = str(next(unet.parameters()).device)
    words = [backbone.source or str(backbone.folder), str(folder), str(answer), str(torch.get_num_threads()), device]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # -P: no file of the working folder is taken for a module
    done = subprocess.run([sys.executable, "-P", "-c", _AGAIN, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        raise ValueError(f"a new process could not load the saved adapter: {said}")
    theirs = load_file(answer)["x"]
    answer.unlink()
    apart = float((mine - theirs).abs().max() / mine.abs().max().clamp_min(1e-12))
    if not apart <= TOLERANCE:
        raise ValueError(f"the saved adapter answers otherwise in a new process (by {apart:.1e}): it was not kept")
    return apart
