"""Evaluation: how real synthetic images are, how faithful to their reports, how private, how useful; with n."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlgen.evaluate.collection import Collection, Progress, gather
from vlgen.evaluate.scores import Curve, Row, Scores, Section

__all__ = ["QUESTIONS", "Collection", "Curve", "Row", "Scores", "Section", "evaluate", "evaluate_pairs", "gather"]

QUESTIONS = ("fidelity", "alignment", "privacy", "utility")
FEATURES = ("imagenet", "mini")


def evaluate(
    real: str | Path,
    synthetic: str | Path,
    *,
    train: str | Path | None = None,
    features: Sequence[str | Path] = FEATURES,
    reports: str | Path | None = None,
    what: Sequence[str] | None = None,
    model: str | Path | None = None,
    label: str | None = None,
    most: int = 1000,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Scores:
    """The figures of a folder of synthetic images against a folder of real ones.

    real, synthetic  folders of images, with a metadata.csv where reports are known; "FOLDER:column=value" takes a part
    train            the images that the generator was trained on: needed for privacy
    features         extractors by name or path (vlgen.features); not only the generator's own CLIP
    reports          a metadata.csv for the synthetic images, in place of their folder's own
    what             of fidelity, alignment, privacy, utility; None is all that the folders allow, without utility,
                     which trains some dozens of small networks
    model            the generator, for membership inference by its loss
    most             images of each set that a distance compares: give the same number where several folders are to be
                     compared with one another, since distances move with n
    label            the finding that utility learns to tell; None takes the one with most labels
    cache            private folder for feature matrices; None is vlgen/features in the user's cache

    Raises ValueError where a folder, a metric or an extractor is unknown, and where images are too few, saying how
    many are needed. Images that cannot be read are named in `about` and left out.
    """
    from vlgen import __version__
    from vlgen.features import extractor

    chosen = _questions(what, train)
    if most < 10:
        raise ValueError(f"most is {most}: distances need at least 10 images of each set")
    extractors = [extractor(name) for name in features]
    if not extractors:
        raise ValueError("no features were named: give at least one extractor, such as imagenet")
    if len({e.name for e in extractors}) < len(extractors):
        raise ValueError(f"two extractors are called {extractors[-1].name!r}: give each once, or rename a folder")
    kept = Path(cache) if cache else private_cache()
    sets = {"real": gather(real, extractors, cache=kept, progress=progress)}
    sets["synthetic"] = gather(synthetic, extractors, reports=reports, cache=kept, progress=progress)
    if train is not None:
        sets["train"] = gather(train, extractors, cache=kept, progress=progress)
    sections: list[Section] = []
    if "fidelity" in chosen:
        from vlgen.evaluate.fidelity import fidelity

        spoken = [e.name for e in extractors if e.read]
        sections.append(
            fidelity(sets["real"], sets["synthetic"], spoken=spoken, most=most, seed=seed, progress=progress)
        )
    if "alignment" in chosen:
        from vlgen.evaluate.alignment import alignment

        sections.append(alignment(sets["real"], sets["synthetic"], extractors, seed=seed, progress=progress))
    if "privacy" in chosen:
        sections.append(_privacy(sets, extractors, model, seed, progress))
    if "utility" in chosen:
        from vlgen.evaluate.utility import utility

        first = extractors[0].name
        sections.append(
            utility(sets["real"], sets["synthetic"], features=first, label=label, seed=seed, progress=progress)
        )
    about = {
        "vlgen": __version__,
        "seed": seed,
        "features": [e.name for e in extractors],
        "questions": list(chosen),
        "folders": {name: _about(one) for name, one in sets.items()},
    }
    return Scores(about, tuple(sections))


def evaluate_pairs(
    reference: str | Path,
    reconstructed: str | Path,
    *,
    masks: str | Path | None = None,
    window: tuple[float, float] | None = None,
    modality: str | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Scores:
    """PSNR, SSIM, MS-SSIM, NRMSE and errors in physical units of images against their references, paired by name."""
    from vlgen import __version__
    from vlgen.evaluate.pairs import pairs

    section, about = pairs(
        reference, reconstructed, masks=masks, modality=modality, window=window, seed=seed, progress=progress
    )
    return Scores({"vlgen": __version__, "seed": seed, "questions": ["pairs"]} | about, (section,))


def private_cache() -> Path:
    """The folder of the user's cache that holds feature matrices; nobody else may read it."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlgen" / "features"


def _questions(what: Sequence[str] | None, train: object) -> tuple[str, ...]:
    if what is None:
        return ("fidelity", "alignment", "privacy") if train is not None else ("fidelity", "alignment")
    if unknown := [name for name in what if name not in QUESTIONS]:
        raise ValueError(f"unknown question {unknown[0]!r}: choose of {', '.join(QUESTIONS)}")
    if "privacy" in what and train is None:
        raise ValueError(
            "privacy compares with the images that the generator was trained on: give their folder, --train"
        )
    return tuple(name for name in QUESTIONS if name in what)


def _privacy(
    sets: dict[str, Collection], extractors: Sequence[Any], model: str | Path | None, seed: int, progress: Progress
) -> Section:
    from vlgen.evaluate.privacy import privacy

    backbone = None
    if model is not None:
        from vlgen.backbone import load

        backbone = load(model)
    return privacy(
        sets["synthetic"], sets["train"], sets["real"], extractors, seed=seed, backbone=backbone, progress=progress
    )


def _about(one: Collection) -> dict[str, Any]:
    """What an evaluation says of a folder: its own name, not where it lies."""
    return {"name": one.folder.resolve().name, **one.stated, "refused": [list(pair) for pair in one.refused]}
