"""Latents and text states, computed once and read one by one, so that neither codec nor text tower runs in a step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.backbone import Backbone
from vlgen.dataset import Row, load
from vlgen.modality import Modality
from vlgen.text import Cond, join
from vlgen.train.loop import Step
from vlgen.train.stash import key, stashed

SHARD, TOGETHER = 256, 8  # images of a file, and of a call of the codec
TEXTS = 32  # texts of a call of the tower


@dataclass(frozen=True)
class Latents:
    """The latent means of some rows, on disk: (C, H, W) float32 each, of unit scale."""

    files: tuple[Any, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """(B, C, H, W) of some rows."""
        return torch.stack([self.files[i // SHARD].get_slice("latents")[i % SHARD] for i in indices])


def latents(
    backbone: Backbone, rows: Sequence[Row], digests: Sequence[str], kind: Modality, fit: str, folder: Path
) -> Generator[Step, None, Latents]:
    """Encode the images of rows, yielding progress. What `folder` already holds of them is not computed again.

    digests  one per row, of its file: together with the codec, window and size they name a file of the stash

    The means of the posterior are kept, never a draw: the same image gives the same latent in every run.
    """
    from safetensors import safe_open

    built = [backbone.fingerprint, backbone.scale, backbone.size, kind.name, kind.window, fit]
    paths = []
    for start in range(0, len(rows), SHARD):
        part = rows[start : start + SHARD]
        name = key([built, list(digests[start : start + SHARD])])
        path = folder / f"latents-{name}.safetensors"
        paths.append(path)
        if path.is_file():
            continue
        found = []
        for k in range(0, len(part), TOGETHER):
            yield Step("encode", start + k, len(rows), {}, 0.0)
            x = torch.stack([load(row, kind, backbone.size, fit=fit) for row in part[k : k + TOGETHER]])
            found.append(backbone.encode(x).float().cpu())
        z = torch.cat(found)
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(f"the codec of {backbone.name} gave latents that are not finite: it is damaged")
        stashed(path, {"latents": z})
    yield Step("encode", len(rows), len(rows), {}, 0.0)
    return Latents(tuple(safe_open(path, framework="pt") for path in paths), len(rows))


@dataclass(frozen=True)
class States:
    """What the text tower makes of some texts, on disk: token states without padding, and pooled vectors."""

    file: Any
    starts: tuple[int, ...]
    places: dict[str, int]

    def __call__(self, texts: Sequence[str]) -> Cond:
        """The conditions of texts, padded to the longest, on the CPU; KeyError for a text that is not among them."""
        states, pooled = self.file.get_slice("states"), self.file.get_slice("pooled")
        conds = []
        for k in (self.places[text] for text in texts):
            found = states[self.starts[k] : self.starts[k + 1]][None]
            conds.append(Cond(found, torch.ones(found.shape[:2], dtype=torch.bool), pooled[k : k + 1]))
        return join(conds)


def states(backbone: Backbone, texts: Sequence[str], folder: Path) -> Generator[Step, None, States]:
    """Embed texts, each once, yielding progress; kept in `folder` under a hash, without a word of them."""
    from safetensors import safe_open

    unique = sorted(set(texts), key=lambda text: (len(text), text))  # of like length together: little padding
    path = folder / f"states-{key([backbone.fingerprint, unique])}.safetensors"
    if not path.is_file():
        found, pooled, lengths = [], [], []
        for k in range(0, len(unique), TEXTS):
            yield Step("embed", k, len(unique), {}, 0.0)
            cond = backbone.embed(unique[k : k + TEXTS])
            found += [own[kept].float().cpu() for own, kept in zip(cond.states, cond.mask, strict=True)]
            lengths += [len(own) for own in found[k:]]
            pooled.append(cond.pooled.float().cpu())
        stashed(path, {"states": torch.cat(found), "pooled": torch.cat(pooled), "lengths": torch.tensor(lengths)})
    yield Step("embed", len(unique), len(unique), {}, 0.0)
    file = safe_open(path, framework="pt")
    starts = [0, *torch.as_tensor(file.get_tensor("lengths")).cumsum(0).tolist()]
    return States(file, tuple(starts), {text: k for k, text in enumerate(unique)})
