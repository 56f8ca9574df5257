"""Commands about kernels: benchmark hijack, benchmark kernels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vlgen.cli.arguments import bar, writable
from vlgen.cli.benchmarks import benchmarks
from vlgen.cli.samplers import Model, numbers_of

HIJACK = (5, 5, 6, 5, 20, 20, 20, 0)  # widths of columns
KERNELS = (3, 10, 20, 22, 20, 20, 20, 0)


@benchmarks.command("hijack")
def hijack(
    folder: Annotated[str, typer.Argument(help="Held-out images; FOLDER:column=value takes a part.")],
    noise: Annotated[str, typer.Option(help="Standard deviations, as shares of the window.")] = "0.05,0.1",
    steps: Annotated[str, typer.Option(help="Counts of steps, 1 to 8.")] = "1,2,4,8",
    weights: Annotated[str, typer.Option(help="Of the result against the noisy image.")] = "1",
    told: Annotated[
        str, typer.Option(help="The noise that it is told, over what was added, such as 0,0.5,2; 0: it finds it.")
    ] = "0",
    adapters: Annotated[str, typer.Option(help="Folders with commas between; none is the model alone.")] = "none",
    model: Model = "mini",
    count: Annotated[int, typer.Option(min=11, help="Images, one of each patient.")] = 64,
    modality: Annotated[str, typer.Option(help="If the folder's reports do not name one.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of images and noise.")] = 0,
    json_: Annotated[Path | None, typer.Option("--json", help="File for the rows; - for stdout alone.")] = None,
) -> None:
    """Denoising by the sampler on real images with noise added: PSNR and SSIM beside plain denoisers."""
    from dataclasses import asdict

    from vlgen.benchmark.hijack import denoising
    from vlgen.files import store

    quiet = json_ == Path("-")
    if json_ and not quiet:
        writable(json_.parent)
    rows = denoising(
        folder,
        model=model,
        adapters=[name.strip() for name in adapters.split(",") if name.strip()],
        noises=shares_of(noise, "noise"),
        steps=numbers_of(steps),
        weights=shares_of(weights, "weights"),
        told=shares_of(told, "told", 10),
        count=count,
        kind=modality,
        seed=seed,
    )
    found = []
    if not quiet:
        titles = ("noise", "steps", "weight", "told", "PSNR in dB [95 %]", "SSIM [95 %]", "gain in dB [95 %]", "way")
        print(_line(HIJACK, *titles))
    for row in rows:
        found.append(asdict(row))
        if not quiet:
            level = f"{row.told:g}" if row.told else "found"
            walked = (str(row.steps), f"{row.weight:g}", level) if row.steps else ("",) * 3
            figures = _span(row.psnr, ".2f"), _span(row.ssim, ".3f"), _span(row.gain, "+.2f")
            print(_line(HIJACK, f"{row.noise:g}", *walked, *figures, f"{row.way} {row.kernel}".strip()), flush=True)
        text = json.dumps({"folder": folder, "n": row.n, "seed": seed, "rows": found}, indent=1)
        if json_ and not quiet:
            store(json_, f"{text}\n".encode())  # at once, so that Ctrl-C keeps what is done
    if quiet:
        print(text)
        return
    n = found[0]["n"]
    print(f"{n} images of as many patients, seed {seed}; gain is over the first backbone, image by image")
    if json_:
        print(json_)


@benchmarks.command("kernels")
def kernels(
    real: Annotated[str, typer.Argument(help="Held-out images; FOLDER:column=value takes a part.")],
    reports: Annotated[str, typer.Option(help="Folder of training images with a metadata.csv: the texts.")],
    adapters: Annotated[
        str, typer.Option(help="Folders with commas between, each under its own kernel; none is the model alone.")
    ] = "none",
    nfe: Annotated[str, typer.Option(help="Evaluations of the network for an image, guidance's too.")] = "5,10,20,40",
    at: Annotated[int, typer.Option(min=1, help="Evaluations at which errors and rounding are tried.")] = 10,
    errors: Annotated[str, typer.Option(help="In the sigma that the network is told.")] = "-20%,-10%,-5%,5%,10%,20%",
    bits: Annotated[str, typer.Option(help="Of the network's weights, rounded for each output channel.")] = "8,6,4",
    count: Annotated[int, typer.Option(min=10, help="Images of each; at most half of the real ones.")] = 200,
    guidance: Annotated[
        float, typer.Option("--guidance", "--guidance-scale", help="1, none, shows what the weights have learned.")
    ] = 1.0,
    solver: Annotated[str | None, typer.Option(help="The model's own if not given.")] = None,
    model: Model = "mini",
    features: Annotated[str, typer.Option(help="As of vlgen evaluate.")] = "imagenet",
    seed: Annotated[int, typer.Option(min=0, help="Of noise, texts and halves.")] = 0,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File for the rows; repeat the command to go on from there.")
    ] = None,
) -> None:
    """How real images are under each kernel, by evaluations, and what wrong sigmas and few bits do to that.

    The first adapter is what the others are compared with, image by image: the same noise, the same texts.
    """
    from dataclasses import asdict

    from vlgen.benchmark.kernels import KernelStudy
    from vlgen.files import store

    if json_:
        writable(json_.parent)
    study = KernelStudy(
        real,
        reports,
        model=model,
        adapters=[name.strip() for name in adapters.split(",") if name.strip()],
        budgets=numbers_of(nfe),
        at=at,
        errors=errors_of(errors),
        bits=numbers_of(bits) if bits.strip() else [],
        count=count,
        guidance_scale=guidance,
        solver=solver,
        features=features,
        seed=seed,
        folder=json_.with_name(f"{json_.name}.features") if json_ else None,
    )
    left, seconds = study.outlook()
    n = len(study.texts)
    print(f"{len(study.cells())} cells of {n} images, {left} to sample: about {seconds / 60:.1f} min", flush=True)
    titles = (
        "nfe",
        "disturbed",
        "Frechet [95 %]",
        "kernel distance x 1000",
        "change of Frechet",
        "moved by",
        "over first",
    )
    print(_line(KERNELS, *titles, "way"))
    rows: list[dict[str, Any]] = []
    with bar(None, quiet=False) as advance:
        for row in study.run(advance):
            cell = row.cell
            what = f"sigma {cell.error:+.0%}" if cell.error else f"int{cell.bits}" if cell.bits else ""
            distance = [1000 * value for value in row.kernel_distance]
            spans = [
                _span(row.frechet, ".1f"),
                _span(distance, ".1f"),
                _span(row.change, "+.1f"),
                _span(row.moved, ".3f"),
            ]
            way = f"{_short(cell.adapter)}, {row.kernel}"
            print(_line(KERNELS, str(cell.nfe), what, *spans, _span(row.against, "+.1f"), way), flush=True)
            rows.append(asdict(row))
            if json_:
                facts = {"real": real, "n": n, "seed": seed, "rows": rows}
                store(json_, f"{json.dumps(facts, indent=1)}\n".encode())
    frechet, kernel = row.reference
    print(f"two real halves of {n}: Frechet {frechet:.1f}, kernel distance x 1000 {1000 * kernel:.1f}; seed {seed}")
    if json_:
        print(json_)


def _line(widths: Sequence[int], *cells: str) -> str:
    """One row of a table."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


def _span(values: Sequence[float] | None, digits: str) -> str:
    """A figure and its interval: 12.3 [11.0, 13.5]."""
    if values is None:
        return ""
    value, low, high = (format(value, digits) for value in values)
    return f"{value} [{low}, {high}]"


def _short(adapter: str) -> str:
    return "no adapter" if adapter == "none" else adapter.rstrip("/").rpartition("/")[2]


def errors_of(text: str) -> list[float]:
    """Relative errors as people list them: "-20%,5%"; an empty text is none."""
    try:
        return [float(part.strip().removesuffix("%")) / 100 for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"errors {text[:60]!r}: give per cents with commas between, such as -10%,10%") from None


def shares_of(text: str, what: str, most: int = 1) -> list[float]:
    """Numbers from 0 as people list them: "0.05,0.1"."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(0 <= value <= most for value in found):
        raise ValueError(f"{what} {text[:60]!r}: give numbers from 0 to {most} with commas between, such as 0.05,0.1")
    return list(dict.fromkeys(found))
