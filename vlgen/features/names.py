"""The names of extractors, and what a name, a folder or a hub id stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vlgen.features import clip, natural, radiology
from vlgen.features.extractor import Extractor
from vlgen.features.weights import cached
from vlgen.folder import MINI

_BUNDLED: dict[str, Callable[[], Extractor]] = {
    "imagenet": natural.imagenet,
    "mini": lambda: clip.own(MINI / "text_encoder", "mini"),
}
_PLACED: dict[str, Callable[[Path | None], Extractor]] = {
    "inception": natural.inception,
    "rad-dino": radiology.rad_dino,
    "biomedclip": clip.biomedclip,
    "torchxrayvision": radiology.torchxrayvision,
}
FEATURES = (*_BUNDLED, *_PLACED)


def extractor(name_or_path: str | Path) -> Extractor:
    """The feature extractor of a name, a folder, or a hub id that is in the local cache. Nothing is downloaded.

    imagenet         EfficientNet-Lite0, 1280 features
    mini             the bundled CLIP, images and texts
    inception        torch_fidelity's, 2048 features; its weights in torch hub's cache, or "inception:FILE"
    rad-dino         768 features of chest films; in the hub's cache, or "rad-dino:FOLDER"
    biomedclip       512 features, images and texts; in the hub's cache, or "biomedclip:FOLDER"
    torchxrayvision  1024 features of chest films; in its own cache as safetensors, or "torchxrayvision:FILE"
    a folder         a vlgen model or its text_encoder, an open_clip CLIP with a BERT, or transformers' DINOv2 or ViT

    Raises ValueError in one sentence that says what is missing, and where it is wanted.
    """
    kind, colon, place = str(name_or_path).partition(":")
    if kind in _PLACED and (place or not colon):
        return _PLACED[kind](Path(place).expanduser() if place else None)
    if str(name_or_path) in _BUNDLED:
        return _BUNDLED[kind]()
    given = Path(name_or_path).expanduser()
    if given.is_dir():
        folder = given.resolve()
        name = folder.parent.name if folder.name == "text_encoder" else folder.name
        return _of_folder(folder, name)
    if str(name_or_path).count("/") == 1 and not given.exists():
        try:
            folder = cached(str(name_or_path), "")
        except ValueError:
            pass  # neither a folder nor in the cache: an unknown name
        else:
            return _of_folder(folder, given.name)
    raise ValueError(
        f"unknown features {str(name_or_path)!r}: give one of {', '.join(FEATURES)}, one of the last four with :PATH, "
        "a folder, or a hub id that is in the cache"
    )


def _of_folder(folder: Path, name: str) -> Extractor:
    for inner in (folder / "text_encoder", folder):
        if (inner / clip.CONFIG).is_file():
            found = clip.own(inner, name) if clip.is_own(inner) else clip.biomedclip(inner, name)
            break
    else:
        if not (folder / radiology.PROCESSOR).is_file():
            raise ValueError(
                f"the folder {folder} has no {clip.CONFIG} and no {radiology.PROCESSOR}: give a vlgen model, an "
                "open_clip folder, or a vision transformer of transformers with both its configurations"
            )
        found = radiology.transformer(folder, name)
    # A folder that happens to bear the name of a known extractor is still another one.
    return replace(found, name=f"{name} {found.fingerprint[:8]}") if name in FEATURES else found
