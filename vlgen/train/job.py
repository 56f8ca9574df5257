"""The job: which rows train, which are held out, what they say, and what of it the result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from vlgen.backbone import Backbone
from vlgen.dataset import Dataset, Row, split, stated, windowed
from vlgen.dataset.twins import COPY, named, pairs
from vlgen.modality import Modality, modality
from vlgen.plan import digest
from vlgen.tensors import counter, generator
from vlgen.train import captions as wording
from vlgen.train.captions import Captions, captions
from vlgen.train.settings import Settings
from vlgen.train.survey import Survey

# What the trained weights do not depend on; the number of steps may grow, and the run goes on.
_FREE = ("steps", "epochs", "save_minutes", "preview_every", "tensorboard", "fresh", "name", "task", "body_part",
         "licence", "max_bad", "audit")  # fmt: skip


@dataclass(frozen=True, repr=False)
class Job:
    """A fine-tune with everything resolved and checked.

    rows      the images, training and held out, each with its patient or its cluster of twins
    train     indices of the training rows; test, of those held out
    refused   (line, reason) of the rows left out
    copies    (line, line) of images that are one picture
    notes     what the user should know
    """

    settings: Settings
    kind: Modality
    rows: tuple[Row, ...]
    digests: tuple[str, ...]
    captions: Captions
    train: tuple[int, ...]
    test: tuple[int, ...]
    refused: tuple[tuple[int, str], ...]
    copies: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]

    @cached_property
    def patients(self) -> list[list[int]]:
        """The training rows of each patient."""
        found: dict[str, list[int]] = {}
        for k in self.train:
            found.setdefault(self.rows[k].patient or str(self.rows[k].file), []).append(k)
        return list(found.values())

    @cached_property
    def manifest(self) -> str:
        """A hash of the training data: the files' and the reports' own hashes, whatever they are called."""
        listed = sorted([self.digests[k], digest(self.rows[k].text)] for k in self.train)
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def stamp(self, backbone: Backbone) -> str:
        """A hash of all that the trained weights depend on, the number of steps apart."""
        facts = {name: value for name, value in asdict(self.settings).items() if name not in _FREE}
        listed = [[self.digests[k], digest(self.rows[k].text), k in set(self.test)] for k in range(len(self.rows))]
        groups = [len(rows) for rows in self.patients]
        parts = [backbone.fingerprint, facts, self.kind.name, self.kind.window, listed, groups]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def row(self, number: int) -> int:
        """The row of the draw of that number: every patient once in a round, in an order of its own.

        So ten slices of one patient weigh no more than one of another; a patient's images take turns.
        """
        turn, place = divmod(number, len(self.patients))
        chosen = _order(len(self.patients), self.settings.seed, turn)[place]
        own = self.patients[chosen]
        return own[(counter(self.settings.seed, "image", chosen) + turn) % len(own)]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int) -> list[int]:
    found: list[int] = torch.randperm(count, generator=generator(seed, "order", turn)).tolist()
    return found


def kind_of(data: Dataset, settings: Settings) -> Modality:
    """The modality of a training, in its window: as given, or as all reports say."""
    name = settings.modality or data.modality
    if not name:
        said = wording.named([row.text for row in data])
        if len(said) != 1:
            heard = f"name {' and '.join(sorted(said))}" if said else "name none"
            raise ValueError(f"the modality is not known, the reports {heard}: give it (--modality)")
        name = said.pop()
    return windowed(modality(name), settings.window)


def job(backbone: Backbone, data: Dataset, settings: Settings, kind: Modality, found: Survey, out: Path) -> Job:
    """Split what the survey found, and resolve what was left open. Raises ValueError where nothing is left to train on.

    Rows without a patient are grouped by likeness, so that neighboring slices and copies lie on one side of the split.
    """
    refused = (*data.refused, *found.refused)
    if not found.rows:
        raise ValueError(f"no image in {data.folder} can be used; line {refused[0][0]}: {refused[0][1]}")
    alike = [(i, j) for i, j in pairs(found.thumbs, COPY) if found.rows[i].file != found.rows[j].file]
    rows = named(found.rows, found.thumbs)
    if settings.split == "patient":
        rows = _joined(rows, alike)
        parts = split(rows, {"train": 1 - settings.held_out, "test": settings.held_out}, settings.seed)
        if settings.held_out and not parts["test"]:
            parts = _one_held_out(rows, settings.seed)
    else:
        parts = stated(rows)
    places = {id(row): k for k, row in enumerate(rows)}
    train, test = (tuple(places[id(row)] for row in parts[name]) for name in ("train", "test"))
    if not train:
        raise ValueError(
            f"no row of {data.folder} is left for training: hold out fewer, give more patients, or another seed, as a "
            "patient that was held out under one always is"
        )
    settings = settings.resolved(name=out.name, images=len(train))
    texts = captions([row.text for row in rows], kind, phrasings=settings.phrasings, drop=settings.drop,
                     seed=settings.seed)  # fmt: skip
    copies = tuple((rows[i].line, rows[j].line) for i, j in alike)
    whole = Job(settings, kind, tuple(rows), found.digests, texts, train, test, refused, copies, ())
    return replace(whole, notes=tuple(_notes(backbone, data, whole, {*alike})))


def _joined(rows: Sequence[Row], alike: Sequence[tuple[int, int]]) -> list[Row]:
    """The rows, where a picture that is there twice joins the patients that it is of."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for i, j in alike:
        first, second = sorted((root(_who(rows[i])), root(_who(rows[j]))))
        parent[second] = first
    return [replace(row, patient=root(_who(row)) if row.patient or _who(row) in parent else "") for row in rows]


def _who(row: Row) -> str:
    return row.patient or row.file.stem


def _one_held_out(rows: Sequence[Row], seed: int) -> dict[str, tuple[Row, ...]]:
    """One patient held out, where the shares left none; nobody, where there is one patient alone."""
    names = sorted({_who(row) for row in rows}, key=lambda name: counter("split", seed, name))
    chosen = names[-1] if len(names) > 1 else None
    return {
        "train": tuple(row for row in rows if _who(row) != chosen),
        "test": tuple(row for row in rows if _who(row) == chosen),
    }


def _notes(backbone: Backbone, data: Dataset, whole: Job, alike: set[tuple[int, int]]) -> list[str]:
    notes = []
    if whole.settings.split == "column" and (
        across := [(i, j) for i, j in alike if (i in whole.train) != (j in whole.train)]
    ):
        i, j = min(across)
        notes.append(
            f"{len(across)} pictures are on both sides of the split, the first in lines {whole.rows[i].line} and "
            f"{whole.rows[j].line}: the held-out loss will look better than it is"
        )
    if whole.copies:
        some = ", ".join(f"{a} and {b}" for a, b in whole.copies[:5])
        notes.append(
            f"{len(whole.copies)} pairs of images are one picture: lines {some}{', ...' * (len(whole.copies) > 5)}"
        )
    if not any(row.patient for row in data):
        notes.append("no patients are named: images that look alike were kept on one side of the split")
    if not whole.test:
        notes.append("nothing is held out: the audit will have no loss on images that training has not seen")
    if data.unnamed:
        notes.append(f"{data.unnamed} DICOM files in the folder are in no row")
    if others := sorted(wording.named([row.text for row in whole.rows]) - {whole.kind.name}):
        notes.append(f"some reports name another modality than {whole.kind.name}: {', '.join(others)}")
    makes = backbone.card.get("modalities")
    if makes and whole.kind.name not in makes:
        notes.append(f"{backbone.name} does not make {whole.kind.title}: the adapter brings it")
    return notes


def passes(whole: Job) -> float:
    """How often training sees each image, on average."""
    return (whole.settings.steps or 0) * whole.settings.batch / len(whole.train)


def bounded(refused: Sequence[tuple[int, str]], most: int) -> None:
    """Raise a ValueError where more rows were refused than may be, with the first reasons by line."""
    if len(refused) > most:
        first = "; ".join(f"line {line}: {reason}" for line, reason in refused[:3])
        raise ValueError(
            f"{len(refused)} rows cannot be used, and at most {most} may be ({first}): mend them, or allow more "
            "(--max-bad)"
        )


def summary(refused: Sequence[tuple[int, str]]) -> Mapping[str, list[int]]:
    """Reason -> the lines that were refused for it."""
    found: dict[str, list[int]] = {}
    for line, reason in refused:
        found.setdefault(reason, []).append(line)
    return found
