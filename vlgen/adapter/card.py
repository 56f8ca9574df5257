"""The model card of an adapter: a README.md that makes its folder a repository for the Hugging Face Hub."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from vlgen.adapter.contract import WEIGHTS, Adapter
from vlgen.adapter.targets import described
from vlgen.modality import MODALITIES

CARD = "README.md"
LIBRARY, PIPELINE = "diffusers", "text-to-image"
WORDS = "in words"  # of an audit: its sentences
ORDER = ("before", "after", "change", "change_se", "low", "high", "n", "beside", "which is")  # of an audit's columns
# Identifiers of the Hub's list that data and models of this field carry; any other licence is "other" with its name.
LICENCES = frozenset((
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl-3.0", "odc-by", "odbl", "openrail",
    "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "unlicense", "unknown", "other",
))  # fmt: skip


def card(adapter: Adapter) -> str:
    """The model card: front matter that the Hub reads, then what the contract says, in sentences and tables."""
    return f"---\n{front(adapter)}---\n\n" + "\n\n".join(_body(adapter)) + "\n"


def front(adapter: Adapter) -> str:
    """The front matter as YAML: licence, library, base model, pipeline and tags."""
    import yaml  # type: ignore[import-untyped]  # of huggingface_hub's own requirements

    named = re.sub(r"[^a-z0-9.+-]+", "-", adapter.licence.lower()).strip("-")
    found: dict[str, Any] = {"license": named if named in LICENCES else "other" if named else "unknown"}
    if found["license"] == "other":
        found |= {"license_name": named or "other"}
    kind = MODALITIES[adapter.modality].title if adapter.modality else ""
    words = ["medical", "synthetic", "vlgen", "full-fine-tune" if adapter.full else "lora", kind, adapter.body_part]
    tags = [tag for word in [*words, adapter.task] if (tag := re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-"))]
    found |= {
        "library_name": LIBRARY,
        "base_model": repository(adapter.base),
        "pipeline_tag": PIPELINE,
        "tags": list(dict.fromkeys(tags)),
    }
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=False))


def repository(base: str) -> str:
    """A base's name as the Hub writes names."""
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", base).strip("-./") or "unknown"


def faults(text: str) -> list[str]:
    """What keeps a model card from being one: its front matter against what the Hub asks for."""
    import yaml

    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return [f"{CARD} has no front matter between two lines of ---"]
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        return [f"the front matter of {CARD} is not YAML with names and values"]
    said = []
    if found.get("license") not in LICENCES:
        said.append(f"the card's license is none of the Hub's: {', '.join(sorted(LICENCES))}")
    if found.get("license") == "other" and not found.get("license_name"):
        said.append("the card's license is other, so it needs a license_name")
    if found.get("library_name") != LIBRARY or found.get("pipeline_tag") != PIPELINE:
        said.append(f"the card's library_name must be {LIBRARY} and its pipeline_tag {PIPELINE}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(found.get("base_model", ""))):
        said.append("the card's base_model must be a repository's name, such as mini or owner/name")
    tags = found.get("tags")
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) and tag for tag in tags):
        said.append("the card's tags must be a list of words")
    if not parts[2].strip():
        said.append("the card says nothing below its front matter")
    return said


def _body(adapter: Adapter) -> list[str]:
    kind = MODALITIES[adapter.modality].title if adapter.modality else "any modality"
    what = (
        "whole UNet weights" if adapter.full else f"LoRA weights of rank {adapter.rank} ({described(adapter.targets)})"
    )
    task = f", {_plain(adapter.task)}" if adapter.task else ""
    about = f"{what[0].upper()}{what[1:]} for {_plain(adapter.base)}: {kind}{task}."
    use = f'```sh\nvlgen generate "..." --model {shlex.quote(adapter.base)} --adapter FOLDER\n```'
    lora = f'unet.load_lora_adapter("FOLDER", weight_name="{WEIGHTS}", prefix="unet")'
    whole = 'unet = UNet2DConditionModel.from_pretrained("FOLDER", subfolder="unet")'
    plain = f"```python\n{whole if adapter.full else lora}\n```"
    body = [
        f"# {_plain(adapter.name)}",
        about,
        "Images made with it are synthetic. They are for research, not for diagnosis.",
        "## Use",
        use,
        "With diffusers alone, on the same UNet:",
        plain,
        "## Contract",
        "`adapter.json` holds all of it, and vlgen refuses to load the weights where any of it is not so.",
        _table(_contract(adapter)),
    ]
    if adapter.audit:
        body += ["## Audit", *_audit(adapter.audit)]
    if adapter.facts:
        body += ["## Facts", _table(dict(_flat(adapter.facts)))]
    return body


def _contract(adapter: Adapter) -> dict[str, Any]:
    window = f"{adapter.window[0]:g} to {adapter.window[1]:g}" if adapter.window else ""
    rows = {
        "base": f"{adapter.base} ({adapter.base_fingerprint[:12]})",
        "base revision": adapter.base_revision,
        "codec": f"{adapter.codec}, latents times {adapter.codec_scale:g}",
        "prediction": adapter.prediction,
        "text encoder": f"{adapter.text_encoder}, {adapter.chunks} chunks of {adapter.max_tokens} tokens",
        "kernel": adapter.kernel,
        "modality": adapter.modality,
        "body part": adapter.body_part,
        "window": window,
        "size": f"{adapter.size} pixels",
        "rank and alpha": "" if adapter.full else f"{adapter.rank} and {adapter.alpha:g}",
        "targets": ", ".join(adapter.targets),
        "steps": adapter.steps or "",
        "training images": adapter.images or "",
        "training patients": adapter.patients or "",
        "training data, sha256 of the manifest": adapter.data_sha256,
        "licence": adapter.licence,
        "weights, sha256": adapter.sha256,
        "versions": ", ".join(f"{name} {value}" for name, value in adapter.versions.items()),
    }
    return {name: value for name, value in rows.items() if value != ""}


def _audit(audit: Mapping[str, Any]) -> list[str]:
    """The audit's sentences, then a line for each of its figures with what to read it beside, then whatever is left."""
    figures = {
        name: value
        for name, value in audit.items()
        if isinstance(value, Mapping) and value and not any(isinstance(inner, Mapping) for inner in value.values())
    }
    others = {name: value for name, value in audit.items() if name not in figures and name != WORDS}
    found = [_plain(audit[WORDS])] if audit.get(WORDS) else []
    if figures:
        there = dict.fromkeys(key for value in figures.values() for key in value)
        columns = [key for key in ORDER if key in there] + [key for key in there if key not in ORDER]
        lines = [["", *columns], ["---"] * (len(columns) + 1)]
        lines += [[name, *(value.get(key, "") for key in columns)] for name, value in figures.items()]
        found.append("\n".join(f"| {' | '.join(_plain(cell).replace('_', ' ') for cell in line)} |" for line in lines))
    return found + ([_table(dict(_flat(others)))] if others else [])


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {_plain(name)} | {_plain(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _flat(found: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in found.items():
        full = f"{above}{name}".replace("_", " ")
        rows += _flat(value, f"{full}, ") if isinstance(value, Mapping) else [(full, value)]
    return rows


def _plain(value: Any) -> str:
    """A value on one line of a table, with nothing that Markdown would read as markup."""
    text = (
        f"{value:.6g}"
        if isinstance(value, float)
        else ", ".join(map(_plain, value))
        if isinstance(value, list)
        else str(value)
    )
    shown = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return re.sub(r"([|<>`\[\]])", r"\\\1", shown)
