"""The command denoise: the noise taken out of images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import Json, bar, text_of, writable
from vlgen.cli.samplers import Adapters, KernelName, Model

if TYPE_CHECKING:
    from torch import Tensor

    from vlgen.backbone import Backbone
    from vlgen.modality import Modality

AUTO = "auto"


@app.command()
def denoise(
    files: Annotated[list[Path], typer.Argument(help="Images: PNG, JPEG, TIFF, NPY or DICOM.")],
    report: Annotated[str, typer.Option(help="What the images show: text, @FILE, or - for standard input.")] = "",
    modality: Annotated[str | None, typer.Option(help="cxr, ct, mri, us or pet, if the report does not say.")] = None,
    noise: Annotated[
        str, typer.Option(help="Standard deviation in the image's unit; auto measures it in each image.")
    ] = AUTO,
    sigma: Annotated[float | None, typer.Option(help="The level in latents, in place of the noise.")] = None,
    steps: Annotated[int, typer.Option(help="1 to 8: the mean, then ever sharper.")] = 1,
    weight: Annotated[float, typer.Option(help="Of the result against the image: 0 is the image itself.")] = 1.0,
    kernel: KernelName = None,
    solver: Annotated[str, typer.Option(help="By name, options after a colon; see vlgen samplers.")] = "euler",
    guidance_scale: Annotated[float, typer.Option(help="1 is no guidance.")] = 1.0,
    adapter: Adapters = None,
    force_adapter: Annotated[
        bool, typer.Option("--force-adapter", help="Take one whose contract is for another model; every image says so.")
    ] = False,
    model: Model = "mini",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise that finds the level.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out"),
    format: Annotated[str, typer.Option(help="png, npy or dicom.")] = "png",
    json_: Json = False,
) -> None:
    """Take the noise out of images: the sampler, started at the image's own noise level.

    Images come out at the model's size, the central square. What the model adds or smooths is not to be believed.
    """
    from vlgen.backbone import load
    from vlgen.hijack import course
    from vlgen.hijack import denoise as clean
    from vlgen.images import ENDINGS, write
    from vlgen.modality import modality as known

    if format not in ENDINGS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(ENDINGS)}")
    spread = _noise(noise) if sigma is None else None
    if sigma is not None and noise != AUTO:
        raise ValueError("--noise and --sigma were both given: give the noise of the pixels, or sigma of the latents")
    backbone = load(model, adapter=adapter or (), force_adapter=force_adapter)
    said = text_of(report)
    settings: dict[str, Any] = {
        "steps": steps,
        "kernel": kernel,
        "solver": solver,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }
    todo = course(backbone, said, known(modality) if modality else None, **settings)
    writable(out)
    say = (lambda _: None) if json_ else print
    say(f"{todo.line().partition(' | seeds')[0]} | weight {weight:g} | device {todo.device}")
    for note in todo.notes:
        say(f"note: {note}")
    rows = []
    with bar(len(files), quiet=json_) as advance:
        for place, file in enumerate(files, 1):
            try:
                pixels = _read(backbone, file, todo.modality)
                images = clean(
                    backbone,
                    pixels,
                    said,
                    kind=todo.modality.name,
                    noise=spread,
                    sigma=sigma,
                    weight=weight,
                    **settings,
                )
            except ValueError as error:
                raise ValueError(f"image {place} of {len(files)}: {error}") from None
            [path] = write(images, out, format=format)  # at once, so that Ctrl-C keeps what is done
            made = images.provenance[0]
            rows.append({"file": str(path), "noise": made["noise"], "sigma": made["sigma_max"]})
            found = "" if made["noise"] is None else f"noise {made['noise']:.4g} {todo.modality.unit}".rstrip() + ", "
            say(f"{path}  {found}sigma {made['sigma_max']:.4g}")
            advance(1)
    if json_:
        print(json.dumps({**{k: v for k, v in todo.record().items() if k != "seeds"}, "files": rows}))


def _read(backbone: Backbone, file: Path, kind: Modality) -> Tensor:
    """One image in the unit of its modality: pictures know no unit, so their black and white are the window's ends."""
    from vlgen.images import fit, read_with_facts

    x, facts = read_with_facts(file)
    if len(x) != 1:
        raise ValueError(f"{len(x)} channels or frames: give one image per file")
    pictorial = facts["format"] in ("PNG", "JPEG", "TIFF") and not facts["unit"]
    unit = facts.get("unit", kind.unit)
    if unit != kind.unit and not pictorial:
        has, wants = unit or "relative units", kind.unit or "relative units"
        raise ValueError(f"its values are in {has}, those of {kind.title} must be in {wants}: give another modality")
    if pictorial:
        x = kind.decode(x * 2 - 1)
    aspect = float(facts.get("aspect", 1))
    return x if abs(aspect - 1) < 0.01 else fit(x, backbone.size, aspect=aspect)


def _noise(text: str) -> float | None:
    if text == AUTO:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"noise {text!r}: give auto, or a standard deviation above 0 in the image's unit")
    return value
