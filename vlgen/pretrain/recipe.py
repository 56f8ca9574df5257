"""A recipe: which images and reports, which networks, how long. One TOML file makes one model."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlgen.modality import modality
from vlgen.train.loop import Training

STAGES = ("codec", "clip", "diffusion")  # of every model
POLISH = "decoder"  # a stage that a recipe may have besides: it sees what the codec sees
_SOURCE = {"folder", "modality", "weight", "only"}
_TRAINING = {"steps", "batch", "lr", "warmup", "ema", "weight_decay", "save_minutes", "sheet_minutes"}
# what only one stage knows: entry -> its type; those with a star are needed
_OPTIONS = {
    "codec": {
        "class": "text",
        "model*": "table",
        "crop": "whole number",
        "noise": "number",
        "half": "number",
        "perceptual": "number",
    },
    "decoder": {
        "crop": "whole number",
        "noise": "number",
        "perceptual": "number",
        "sampled": "number",
        "highest": "number",
        "critic": "number",
    },
    "clip": {"model*": "table", "vocabulary": "whole number", "statements": "whole number"},
    "diffusion": {
        "model*": "table",
        "scheduler*": "table",
        "mean": "number",
        "std": "number",
        "drop": "number",
        "sheet": "list of texts",
        "defaults": "table",
    },
}
# entries of their tables that the stages read themselves
_INSIDE = {
    "clip": (
        ("model", "embed_dim"),
        ("model", "vision_cfg", "image_size"),
        ("model", "text_cfg", "width"),
    ),
    "diffusion": (("scheduler", "prediction_type"),),
}


@dataclass(frozen=True)
class Source:
    """A folder of images and reports, and how often to draw from it.

    weights  stage -> share of the batches, relative to the other sources; a stage without one does not see it
    only     take only the rows whose column `source` says this; "" takes all
    """

    folder: Path
    modality: str
    weights: Mapping[str, float]
    only: str


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a model, read from a TOML file by `Recipe.read`.

    options  per stage, what only that stage knows: network shapes, crop size, noise distribution
    """

    name: str
    size: int
    seed: int
    held_out: float
    sources: tuple[Source, ...]
    texts: tuple[Path, ...]
    training: Mapping[str, Training]
    options: Mapping[str, Mapping[str, Any]]
    card: Mapping[str, Any]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the recipe has, in their order."""
        return tuple(self.training)

    @classmethod
    def read(cls, path: str | Path, *, data: str | Path | None = None) -> Recipe:
        """The recipe in a TOML file; `data` replaces the folder that its own `data` names.

        Raises ValueError, naming the entry, for what is missing, unknown or out of range.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"the recipe {path} cannot be read ({error.strerror}): give a TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"the recipe {path} is not TOML ({error}): mend that line") from None
        root = Path(data) if data is not None else path.parent / str(table.get("data", "."))
        known = {"name", "size", "seed", "held_out", "data", "source", "texts", "card", *STAGES, POLISH}
        _only(table, known, path, "the recipe")
        for needed in ("name", "size", "source", *STAGES):
            if needed not in table:
                raise ValueError(f"the recipe {path} has no {needed!r}: add it, as in the bundled recipe")
        name, size, seed = table["name"], table["size"], table.get("seed", 0)
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)):
            raise ValueError(f"{path}: name is {name!r}; give a plain file name of letters, digits, - _ and .")
        if not _is(size, "whole number") or not 32 <= size <= 1024 or size % 32:
            raise ValueError(f"{path}: size is {size!r}; give a multiple of 32 from 32 to 1024")
        if not _is(seed, "whole number"):
            raise ValueError(f"{path}: seed is {seed!r}; give a whole number")
        held_out = table.get("held_out", 0.1)
        if not (_is(held_out, "number") and 0 < held_out < 1):
            raise ValueError(f"{path}: held_out is {held_out!r}; give the share of patients kept out, such as 0.1")
        for entry, kind in (
            ("texts", "list of texts"),
            ("card", "table"),
            *((stage, "table") for stage in (*STAGES, POLISH)),
        ):
            if entry in table and not _is(table[entry], kind):
                raise ValueError(f"{path}: {entry} is {table[entry]!r}; give a {kind}")
        if not (isinstance(table["source"], list) and table["source"]):
            raise ValueError(f"{path}: source is {table['source']!r}; give one [[source]] or more")
        training, options = {}, {}
        for stage in (*STAGES, *[POLISH] * (POLISH in table)):
            section = dict(table[stage])
            training[stage] = _training({k: section.pop(k) for k in list(section) if k in _TRAINING}, stage, path)
            options[stage] = _checked(section, stage, path)
        for stage in ("codec", POLISH):
            crop = options.get(stage, {}).get("crop", 1)
            if not 1 <= crop <= size:
                raise ValueError(f"{path}: crop of [{stage}] is {crop}; give at least 1 and at most the size, {size}")
        return cls(
            name=name,
            size=size,
            seed=seed,
            held_out=float(held_out),
            sources=tuple(_source(entry, root, path) for entry in table["source"]),
            texts=tuple(root / text for text in table.get("texts", ())),
            training=training,
            options=options,
            card=dict(table.get("card", {})),
        )


def _is(value: Any, kind: str) -> bool:
    """Whether a value of a TOML file is of a kind; true and false are no numbers."""
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind == "list of texts":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == "whole number":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"text": str, "table": Mapping}[kind])


def _checked(section: dict[str, Any], stage: str, path: Path) -> dict[str, Any]:
    """The options of a stage, each known and of its type, none missing."""
    kinds = {name.rstrip("*"): kind for name, kind in _OPTIONS[stage].items()}
    _only(section, _TRAINING | set(kinds), path, f"[{stage}]")
    for name in (name.rstrip("*") for name in _OPTIONS[stage] if name.endswith("*")):
        if name not in section:
            raise ValueError(f"{path}: [{stage}] has no {name!r}: add it, as in the bundled recipe")
    for name, value in section.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{path}: {name} of [{stage}] is {value!r}; give a {kinds[name]}")
    for names in _INSIDE.get(stage, ()):
        inside: Any = section
        for name in names:
            if not (isinstance(inside, Mapping) and name in inside):
                raise ValueError(f"{path}: [{stage}] has no {'.'.join(names)!r}: add it, as in the bundled recipe")
            inside = inside[name]
    return section


def _only(entries: Mapping[str, Any], known: set[str], path: Path, where: str) -> None:
    for name in entries:
        if name not in known:
            raise ValueError(f"{path}: {where} has the unknown entry {name!r}; known are {', '.join(sorted(known))}")


def _source(entry: Mapping[str, Any], root: Path, path: Path) -> Source:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{path}: a source is {entry!r}; give a [[source]] with 'folder' and 'modality'")
    _only(entry, _SOURCE, path, "a source")
    if "folder" not in entry or "modality" not in entry:
        raise ValueError(f"{path}: a source needs 'folder' and 'modality'")
    for name in ("folder", "modality", "only"):
        if name in entry and not _is(entry[name], "text"):
            raise ValueError(f"{path}: {name} of a source is {entry[name]!r}; give a text")
    modality(entry["modality"])
    given = entry.get("weight", 1)
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(STAGES, given)
    if unknown := set(weights) - set(STAGES):
        raise ValueError(f"{path}: the stage {sorted(unknown)[0]!r} of a source is unknown; there are {STAGES}")
    if not weights or any(not (_is(weight, "number") and weight > 0) for weight in weights.values()):
        raise ValueError(
            f"{path}: the weight of {entry['folder']} is {given!r}; give a number above 0, or one for each stage that "
            "learns from it, such as {codec = 2, clip = 1}"
        )
    if "codec" in weights:
        weights[POLISH] = weights["codec"]
    return Source(root / entry["folder"], entry["modality"], weights, entry.get("only", ""))


def _training(section: Mapping[str, Any], stage: str, path: Path) -> Training:
    values = {"warmup": 200, "ema": 0.999, "weight_decay": 0.01, "save_minutes": 5.0, "sheet_minutes": 10.0} | section
    for name in ("steps", "batch", "lr"):
        if name not in values:
            raise ValueError(f"{path}: [{stage}] has no {name!r}: add it")
    for name, value in values.items():
        kind = "whole number" if name in ("steps", "batch", "warmup") else "number"
        if not (_is(value, kind) and value >= 0):
            raise ValueError(f"{path}: {name} of [{stage}] is {value!r}; give a {kind} of at least 0")
    if values["steps"] < 1 or values["batch"] < 1 or not values["ema"] < 1:
        raise ValueError(f"{path}: [{stage}] wants steps and batch of at least 1 and ema below 1")
    return Training(**values)
