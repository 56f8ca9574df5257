"""The command evaluate: four questions about a folder of synthetic images, or errors against references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import bar, writable

if TYPE_CHECKING:
    from vlgen.evaluate import Scores


@app.command("evaluate")
def evaluate_(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="REAL SYNTHETIC: folders of images; FOLDER:column=value takes a part. With --pairs: REFERENCE "
            "RECONSTRUCTED."
        ),
    ],
    pairs: Annotated[bool, typer.Option("--pairs", help="Errors of images against their references, by name.")] = False,
    train: Annotated[str | None, typer.Option(help="The images the generator was trained on; for privacy.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="imagenet, mini, inception, rad-dino, biomedclip, torchxrayvision, or a folder; repeatable."),
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="metadata.csv of the synthetic images, if not theirs.")] = None,
    what: Annotated[
        str | None,
        typer.Option(help="Of fidelity,alignment,privacy,utility; all but utility, as far as possible, if not given."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The generator, for membership inference by its loss.")] = None,
    label: Annotated[str | None, typer.Option(help="The finding that utility learns; the commonest if none.")] = None,
    most: Annotated[int, typer.Option(help="Images of each set that a distance compares; it moves with n.")] = 1000,
    masks: Annotated[Path | None, typer.Option(help="With --pairs: masks of the same names.")] = None,
    window: Annotated[str | None, typer.Option(help="With --pairs: LOW,HIGH of the unit, for PSNR's peak.")] = None,
    modality: Annotated[str | None, typer.Option(help="With --pairs: cxr, ct, mri, us or pet.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="File for the scores; - for stdout alone.")] = None,
    html: Annotated[Path | None, typer.Option(help="File for one self-contained page.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
) -> None:
    """Measure how real, faithful, private and useful synthetic images are; every figure with its n."""
    from vlgen.evaluate import evaluate, evaluate_pairs

    if len(folders) != 2:
        raise ValueError(f"{len(folders)} folders were given: give two, REAL and SYNTHETIC, or REFERENCE RECONSTRUCTED")
    quiet = json_ == Path("-")
    for file in (json_, html):
        if file and file != Path("-"):
            writable(file.parent)
    with bar(None, quiet=quiet) as advance:
        if pairs:
            scores = evaluate_pairs(
                *folders, masks=masks, window=_window(window), modality=modality, seed=seed, progress=advance
            )
        else:
            scores = evaluate(
                folders[0],
                folders[1],
                train=train,
                features=features or ("imagenet", "mini"),
                reports=reports,
                what=[name.strip() for name in what.split(",")] if what else None,
                model=model,
                label=label,
                most=most,
                seed=seed,
                progress=advance,
            )
    _show(scores, quiet, json_, html)


def _show(scores: Scores, quiet: bool, json_: Path | None, html: Path | None) -> None:
    from vlgen.files import store

    text = json.dumps(scores.json(), indent=1) + "\n"
    if json_ and not quiet:
        store(json_, text.encode())
    if html:
        from vlgen.evaluate.page import write_page

        write_page(scores, html)
    if quiet:
        print(text, end="")
        return
    from rich.console import Console

    from vlgen.evaluate.table import render

    render(scores, Console())
    for file in filter(None, (json_, html)):
        print(file)


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"the window {text!r} is not LOW,HIGH: give two numbers, such as --window=-1000,500") from None
    if not low < high:
        raise ValueError(f"the window {text!r} is empty: give the lower end first")
    return low, high
