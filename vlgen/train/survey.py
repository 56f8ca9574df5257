"""The survey: every image is read once, so that what cannot be used, and what is there twice, is known beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vlgen.checkpoint import sha256
from vlgen.dataset import Row, load
from vlgen.dataset.loading import constant
from vlgen.dataset.twins import thumbnail
from vlgen.modality import Modality
from vlgen.train.loop import Step
from vlgen.train.stash import restored, stashed

EVERY = 64  # images between two reports of progress


@dataclass(frozen=True)
class Survey:
    """What reading every image of some rows found.

    rows     those that can be used
    digests  of each, a hash of its file and of the frame or slice in it
    thumbs   (N, 576) their thumbnails
    refused  (line, reason) of those that cannot
    """

    rows: tuple[Row, ...]
    digests: tuple[str, ...]
    thumbs: Tensor
    refused: tuple[tuple[int, str], ...]


def survey(
    rows: Sequence[Row], kind: Modality, size: int, fit: str, folder: Path | None = None
) -> Generator[Step, None, Survey]:
    """Read every image as training will, yielding progress; the result is kept in `folder`, without names or texts.

    It is read again only where a file, its time or how it is read have changed.
    """
    stats = [row.file.stat() for row in rows]
    listed = [
        [row.file.name, s.st_size, s.st_mtime_ns, row.index, row.plane, row.line]
        for row, s in zip(rows, stats, strict=True)
    ]
    key = hashlib.sha256(json.dumps([listed, kind.name, kind.window, size, fit]).encode()).hexdigest()[:24]
    path = folder / f"survey-{key}.safetensors" if folder else None
    if path and (found := restored(path)):
        tensors, facts = found
        kept = [int(k) for k in tensors["kept"]]
        refused = tuple((int(line), str(reason)) for line, reason in facts["refused"])
        return Survey(tuple(rows[k] for k in kept), tuple(facts["digests"]), tensors["thumbs"], refused)
    kept, digests, thumbs, bad = list[int](), list[str](), list[Tensor](), list[tuple[int, str]]()
    for k, row in enumerate(rows):
        if k % EVERY == 0:
            yield Step("read", k, len(rows), {}, 0.0)
        try:
            x = load(row, kind, size, fit=fit)
            if constant(x):
                raise ValueError("the image shows nothing: every pixel is the same in the window")
        except ValueError as error:
            # The reason without the file's name, which may hold a patient's.
            bad.append((row.line, str(error).removeprefix(f"line {row.line}: ").removeprefix(f"{row.file.name}: ")))
            continue
        kept.append(k)
        thumbs.append(thumbnail(x))
        file = _sha256(row.file, stats[k].st_mtime_ns)
        digests.append(hashlib.sha256(f"{file}/{row.index}/{row.plane}".encode()).hexdigest())
    yield Step("read", len(rows), len(rows), {}, 0.0)
    found_thumbs = torch.stack(thumbs) if thumbs else torch.empty(0, 576)
    if path:
        stashed(path, {"thumbs": found_thumbs, "kept": torch.tensor(kept)}, {"digests": digests, "refused": bad})
    return Survey(tuple(rows[k] for k in kept), tuple(digests), found_thumbs, tuple(bad))


@lru_cache(maxsize=1)  # the slices of a volume follow one another
def _sha256(path: Path, _: int) -> str:
    return sha256(path)
