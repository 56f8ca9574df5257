"""Loading: an adapter comes onto a backbone only if it is what its contract says, for the backbone it was made for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vlgen import kernels
from vlgen.adapter.contract import CONTRACT, FULL, Adapter, degrees, read, slug, validate
from vlgen.adapter.differences import Base, differences, named_for
from vlgen.adapter.layers import Carried, activate, inject, lora, remove, whole
from vlgen.adapter.targets import TEXT, UNET, for_diffusers, resolve
from vlgen.adapter.weights import LORA, finite, header, unpack
from vlgen.checkpoint import sha256
from vlgen.folder import beside


def add(
    backbone: Base,
    name: str,
    *,
    rank: int = 16,
    alpha: float | None = None,
    targets: str | Sequence[str] = ("attention",),
    kernel: str = "",
    seed: int = 0,
) -> list[nn.Parameter]:
    """Put a fresh adapter onto the backbone; B = 0, so that it changes nothing yet.

    alpha    the change is alpha / rank * B A; rank where it is not given
    targets  attention, wide, text, full, or the ends of modules' names
    kernel   that it will be trained under, "pfgmpp:128"; the base's own where it is not given
    seed     of A, drawn from N(0, 1 / rank)

    Returns its parameters, in float32 and trainable: LoRA's, or for `full` the UNet's own. Everything else is frozen.
    """
    if slug(name) in backbone.carried:
        raise ValueError(f"an adapter called {name!r} is on {backbone.name} already: give another name")
    if any(carried.adapter.full for carried in backbone.carried.values()):
        raise ValueError(f"{backbone.name} carries a full fine-tune: load the base alone")
    ends = resolve(backbone, targets)
    rank, alpha = (0, 0.0) if ends == FULL else (rank, float(rank if alpha is None else alpha))
    noise = kernels.kernel(kernel or backbone.base_kernel)
    adapter = Adapter(
        name=name,
        rank=rank,
        alpha=alpha,
        targets=ends,
        kernel=noise.name,
        D=degrees(noise.name),
        **named_for(backbone),
    )
    validate(adapter)
    slot = slug(name)
    backbone.unet.requires_grad_(False)
    backbone.text.tower.requires_grad_(False)
    try:
        if not adapter.full:
            inject(backbone, adapter, slot, seed=seed)
        backbone.carried[slot] = Carried(adapter)
        _record(backbone)
    except BaseException:
        drop(backbone, slot)
        raise
    mine = list(backbone.unet.parameters()) if adapter.full else list(lora(backbone, slot).values())
    for parameter in mine:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return mine


def load(backbone: Base, folder: str | Path, *, force: bool = False) -> Adapter:
    """Put a saved adapter onto the backbone it was made for, at scale 1, beside those that it carries.

    force  take it in spite of a contract that is not this backbone's, a sha256 that is not the file's, or weights
           without effect; every difference is kept in `backbone.forced`, and in whatever the backbone makes

    Refuses, with a ValueError naming the first difference. Nothing overrides: pickles, values that are not finite or
    make none, and keys or shapes that do not fit module for module. A refused adapter leaves the backbone as it was.
    """
    place = find(folder)
    if any(c.folder and Path(c.folder).resolve() == place.resolve() for c in backbone.carried.values()):
        raise ValueError(f"adapter {place} is on {backbone.name} already: give its scale to use")
    slot = bring(backbone, place, 1.0, force)
    try:
        _record(backbone)
    except ValueError:
        drop(backbone, slot)
        raise
    adapter: Adapter = backbone.carried[slot].adapter
    return adapter


def use(backbone: Base, specs: Sequence[str | Path], *, force: bool = False) -> list[Adapter]:
    """Let these saved adapters act together, in place of those that were loaded before; none gives the base again.

    specs  folders or names of `vlgen adapters`, each with its scale after a colon if that is not 1: "adapters/mine:0.8"
    force  as in `load`

    Raises ValueError for kernels that differ: weights that were trained for different noise do not add up.
    """
    wanted = named(specs)
    before = dict(backbone.carried)
    came: list[str] = []
    try:
        for folder, scale in wanted:
            came.append(bring(backbone, folder, scale, force))
        backbone.carried = {slot: c for slot, c in backbone.carried.items() if slot in came or not c.folder}
        _record(backbone)
    except BaseException:
        for slot in came:
            drop(backbone, slot)
        backbone.carried = before
        _record(backbone)
        raise
    for slot in before.keys() - backbone.carried.keys():
        drop(backbone, slot)
    return [backbone.carried[slot].adapter for slot in came]


def find(name: str | Path) -> Path:
    """The folder of an adapter: a folder, or the name of one in ./adapters or among those that came with vlgen."""
    given = Path(name)
    own = given.parent in (Path(), Path("adapters")) and given.name not in ("", "adapters")
    places = [given, Path("adapters") / given.name, beside("adapters") / given.name] if own else [given]
    return next((place for place in places if (place / CONTRACT).is_file()), given)


def known_as(folder: str | Path) -> str:
    """What a file says of where an adapter lay: for one that came with vlgen its name, which finds it anywhere."""
    folder = Path(folder)
    named = find(folder.name)
    return folder.name if folder.is_absolute() and named.resolve() == folder.resolve() else str(folder)


def scales(backbone: Base) -> dict[str, float]:
    """How strongly each carried adapter acts, by slot."""
    return {slot: carried.scale for slot, carried in backbone.carried.items()}


def bring(backbone: Base, folder: Path, scale: float, force: bool) -> str:
    """Bring an adapter onto the backbone and return its slot; the others act afterwards as before, and it with them."""
    folder = find(folder)
    adapter = read(folder)
    earlier = adapter.facts.get("forced")  # it was merged or imported by force: what is made with it says so
    earlier = [f"adapter {adapter.name}: {said}" for said in earlier] if isinstance(earlier, list) else []
    forced = [f"adapter {adapter.name} {difference}" for difference in differences(adapter, backbone)]
    weights = folder / adapter.file
    if not weights.is_file():
        raise ValueError(f"adapter {folder} has no {adapter.file}: weights must be safetensors under that name")
    if forced and not force:
        raise ValueError(f"{forced[0]}: load what it was made for, or override with force (--force-adapter)")
    tensors, metadata = unpack(weights)
    digest = sha256(weights)
    if digest != adapter.sha256:
        forced.append(f"adapter {adapter.name} has weights that are not those of its contract (sha256 differs)")
        if not force:
            raise ValueError(f"{forced[-1]}: get {folder} again, or override with force (--force-adapter)")
    finite(tensors, str(folder))
    slot = slug(adapter.name)
    while slot in backbone.carried:
        slot += "_"
    try:
        if not adapter.full:
            inject(backbone, adapter, slot)
        _fit(tensors, whole(backbone) if adapter.full else lora(backbone, slot), folder, backbone.name)
        forced += [f"adapter {adapter.name} {other}" for other in _contradicts(adapter, metadata)]
        if forced and not force:
            raise ValueError(f"{forced[-1]}: get {folder} again, or override with force (--force-adapter)")
        others = dict(backbone.carried)
        if adapter.full and any(c.adapter.full and not c.folder for c in others.values()):
            raise ValueError(f"{backbone.name} is being fine-tuned as a whole: load the base alone")
        backbone.carried[slot] = Carried(adapter, str(folder), scale, digest, (*earlier, *forced))
        if not adapter.full:
            for name, live in lora(backbone, slot).items():
                live.data.copy_(tensors[name])
                live.requires_grad_(False)
        activate(backbone, {})
        without = backbone.probe()
        activate(backbone, {slot: 1.0})
        answer = backbone.probe()
        if not bool(answer.isfinite().all()):
            raise ValueError(f"adapter {folder} makes {backbone.name} answer with values that are not finite")
        if torch.equal(answer, without):
            nothing = f"adapter {adapter.name} changes nothing: its weights have no effect on {backbone.name}"
            if not force:
                raise ValueError(f"{nothing}; train it, or override with force (--force-adapter)")
            backbone.carried[slot] = Carried(adapter, str(folder), scale, digest, (*earlier, *forced, nothing))
        activate(backbone, scales(backbone))
    except BaseException:
        drop(backbone, slot)
        raise
    return slot


def _contradicts(adapter: Adapter, metadata: Mapping[str, str]) -> list[str]:
    """Where the header of a weights file, which its sha256 covers, says another alpha than the contract."""
    said, ours = header(metadata, LORA), for_diffusers(adapter)
    if adapter.full or said is None:
        return []
    names = sorted(said.keys() | ours.keys())
    return [
        f"has weights made for {n} {said.get(n)}, but its contract says {ours.get(n)}"
        for n in names
        if said.get(n) != ours.get(n)
    ][:1]


def _fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: Path, base: str) -> None:
    """Refuse weights that do not match the backbone key for key and shape for shape."""
    if ".lora_" in next(iter(own), ""):
        for name in given:
            if name.split(".")[0] not in (UNET, TEXT):
                raise ValueError(f"adapter {folder} holds {name!r}, but its keys must begin with 'unet.' or '{TEXT}.'")
    for name in sorted(own.keys() ^ given.keys()):
        lacks = "lacks" if name in own else "has the unknown"
        raise ValueError(f"adapter {folder} {lacks} key {name!r}: it does not fit {base}")
    for name, value in given.items():
        has, wants = tuple(value.shape), tuple(own[name].shape)
        if has != wants:
            raise ValueError(f"adapter {folder}: {name!r} is {has}, but {base} wants {wants}")


def drop(backbone: Base, slot: str) -> None:
    """Take an adapter off, if it is on; the others act as before."""
    gone = backbone.carried.get(slot)
    remove(backbone, slot)
    if gone is not None and gone.adapter.full and gone.folder:
        activate(backbone, {k: v for k, v in scales(backbone).items() if k != slot})
    backbone.carried.pop(slot, None)
    activate(backbone, scales(backbone))


def agree(adapters: Sequence[Adapter]) -> dict[str, tuple[float, float]]:
    """The windows that adapters bring together, by modality; refused where they do not add up."""
    names = [adapter.kernel for adapter in adapters]
    if len({kernels.kernel(name).D for name in names}) > 1:
        raise ValueError(f"adapters of kernels {', '.join(names)} do not add up: use one kernel")
    few = [adapter.name for adapter in adapters if adapter.distilled]
    if len(few) > 1:
        raise ValueError(f"adapters {', '.join(few)} are distilled, each for steps of its own: use one of them")
    windows: dict[str, tuple[float, float]] = {}
    for adapter in adapters:
        if adapter.window is not None and windows.setdefault(adapter.modality, adapter.window) != adapter.window:
            both = f"{windows[adapter.modality]} and {adapter.window}"
            raise ValueError(f"adapters of windows {both} do not add up: use one window")
    return windows


def _record(backbone: Base) -> None:
    """Write onto the backbone what it carries, so that every file that it makes says so, and let it act."""
    carried = list(backbone.carried.values())
    acting = [c.adapter for c in carried if c.scale != 0]  # one at 0 is not there: its kernel and window neither
    windows = agree(acting)
    activate(backbone, scales(backbone))
    backbone.adapters = {known_as(c.folder) if c.folder else c.adapter.name: c.scale for c in carried}
    backbone.adapter_sha256 = tuple(c.sha256 for c in carried)
    backbone.modalities = tuple(adapter.modality for adapter in acting if adapter.modality)
    backbone.windows = windows
    earlier = backbone.card.get("forced")  # of a model that adapters were merged into by force
    backbone.forced = tuple(map(str, earlier)) if isinstance(earlier, list) else ()
    backbone.forced += tuple(difference for c in carried for difference in c.forced)
    backbone.kernel = acting[0].kernel if acting else backbone.base_kernel


def named(specs: Sequence[str | Path]) -> list[tuple[Path, float]]:
    """Folders and scales of adapters as people give them, "adapters/mine:0.8"; each once, the scales from -10 to 10.

    A folder's own name may hold a colon: "run:2" is the folder run:2 where there is no adapter run.
    """
    found = []
    for spec in map(str, specs):
        folder, colon, scale = spec.rpartition(":")
        if not (folder if colon else spec).strip():
            raise ValueError(f"adapter {spec!r} names no folder: give one, such as adapters/mine{spec}")
        whole = not colon or ((find(spec) / CONTRACT).is_file() and not (find(folder) / CONTRACT).is_file())
        try:
            found.append((find(spec), 1.0) if whole else (find(folder), float(scale)))
        except ValueError:
            found.append((find(spec), 1.0))
    for place, strength in found:
        if not math.isfinite(strength) or abs(strength) > 10:
            raise ValueError(f"the scale {strength} of adapter {place}: give a number from -10 to 10, such as 0.8")
    if len({place.resolve() for place, _ in found}) < len(found):
        raise ValueError("an adapter was given twice: give it once, with the scale that is meant")
    return found
