"""Checks: everything that an adapter's contract, weights, base and card can be held to, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlgen.adapter.card import CARD, faults
from vlgen.adapter.contract import CONTRACT, Adapter, read
from vlgen.adapter.differences import Base, compared
from vlgen.adapter.loading import bring, drop, find
from vlgen.adapter.targets import TEXT, UNET
from vlgen.adapter.weights import finite, unpack
from vlgen.checkpoint import sha256

OK, NOTE, REFUSED = "ok", "note", "refused"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Finding:
    """One check of an adapter.

    what     contract, sha256, weights, base, size, fit, card and so on
    verdict  ok; note, for what should be mended before it is shared; refused, for what keeps it from being used
    said     what was found, in a sentence; "" where it is ok and there is no more to say
    """

    what: str
    verdict: str
    said: str = ""


def examine(folder: str | Path, backbone: Base | None = None) -> list[Finding]:
    """All checks of an adapter, those that passed too, in the order in which loading makes them.

    backbone  try it on that one too; what the backbone carries stays as it is
    """
    folder = find(folder)
    try:
        adapter = read(folder)
    except ValueError as error:
        return [Finding("contract", REFUSED, str(error))]
    found = [Finding("contract", OK, f"{CONTRACT} of {adapter.name}"), *_of_weights(folder, adapter)]
    if backbone is not None:
        for what, difference in compared(adapter, backbone).items():
            found.append(_verdict(what, f"adapter {adapter.name} {difference}" if difference else ""))
        if all(each.what == "sha256" or each.verdict == OK for each in found if each.what not in _COMPARED):
            found += _fit(folder, backbone, {each.said for each in found})
    return found + list(_to_share(folder, adapter))


def check(folder: str | Path, backbone: Base | None = None) -> list[str]:
    """Everything that is wrong with an adapter, a sentence each; nothing where it can be used and shared."""
    return [each.said for each in examine(folder, backbone) if each.verdict != OK]


_COMPARED = ("base", "prediction", "codec", "codec scale", "text encoder", "max tokens", "chunks", "size", "modality")


def _verdict(what: str, wrong: str, good: str = "", verdict: str = REFUSED) -> Finding:
    return Finding(what, verdict, wrong) if wrong else Finding(what, OK, good)


def _fit(folder: Path, backbone: Base, said: set[str]) -> Iterator[Finding]:
    """Whether it goes onto the backbone and changes what that answers; what was said before is not said again."""
    try:
        slot = bring(backbone, folder, 1.0, force=True)
    except ValueError as error:
        yield Finding("fit", REFUSED, str(error))
        return
    carried = backbone.carried[slot]
    drop(backbone, slot)
    inherited = [each for each in carried.forced if each.startswith(f"adapter {carried.adapter.name}: ")]
    new = [each for each in carried.forced if each not in said and each not in inherited]
    yield _verdict("fit", "".join(new[:1]), f"every key and shape; it changes what {backbone.name} answers")
    yield from (Finding("origin", NOTE, each) for each in inherited)


def _of_weights(folder: Path, adapter: Adapter) -> Iterator[Finding]:
    """What can be seen of a weights file without a backbone."""
    path = folder / adapter.file
    if not path.is_file():
        yield Finding("weights", REFUSED, f"it has no {adapter.file}")
        return
    same = sha256(path) == adapter.sha256
    wrong = "" if same else f"adapter {adapter.name} has weights that are not those of its contract (sha256 differs)"
    yield _verdict("sha256", wrong, adapter.sha256[:12])
    try:
        tensors, _ = unpack(path)
        finite(tensors, str(folder))
    except ValueError as error:
        yield Finding("weights", REFUSED, str(error))
        return
    size = sum(value.numel() for value in tensors.values())
    good = f"{len(tensors)} tensors, {size:,} finite values"
    if adapter.full:
        yield Finding("weights", OK, good)
        return
    for name, value in tensors.items():
        module, mark, which = name.partition(".lora_")
        twin = f"{module}.lora_{'B' if which == 'A.weight' else 'A'}.weight"
        if name.split(".")[0] not in (UNET, TEXT) or not mark or which not in ("A.weight", "B.weight"):
            wrong = f"it holds {name!r}, which is no LoRA matrix of the UNet or the text tower"
        elif twin not in tensors:
            wrong = f"it lacks key {twin!r}"
        elif value.ndim < 2 or (rank := len(value) if which == "A.weight" else value.shape[1]) != adapter.rank:
            of = f"of rank {rank}" if value.ndim > 1 else f"of shape {tuple(value.shape)}"
            wrong = f"{name!r} is {of}, but the contract says {adapter.rank}"
        else:
            continue
        yield Finding("weights", REFUSED, wrong)
        return
    idle = not any(bool(value.any()) for name, value in tensors.items() if ".lora_B." in name)
    yield _verdict("weights", "it changes nothing: every B is 0" if idle else "", good)


def _to_share(folder: Path, adapter: Adapter) -> Iterator[Finding]:
    """What does not keep it from being used here, but from being handed on."""
    try:
        wrong = faults((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        wrong = [f"it has no {CARD}, the model card"]
    yield from [Finding("card", NOTE, each) for each in wrong] or [Finding("card", OK, CARD)]
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _PICKLES:
            yield Finding("files", NOTE, f"{file.name} is a pickle by its name: take it out")
    yield _verdict("licence", "" if adapter.licence else "its contract names no licence", adapter.licence, NOTE)
    yield _verdict(
        "audit", "" if adapter.audit else "its contract holds no audit", f"{len(adapter.audit)} results", NOTE
    )
