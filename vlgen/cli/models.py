"""Commands about models: models, pretrain, benchmark, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import Json, writable


@app.command()
def models(json_: Json = False) -> None:
    """List the models that can be used now: the bundled one, and those in the hub cache."""
    from vlgen.folder import available

    found = available()
    if json_:
        print(json.dumps(found))
        return
    for each in found:
        print(
            f"{each['name']:40s} {each['where']:8s} {each['size_mib']:8.1f} MiB  {each['licence']:20s} {each['card']}"
        )


@app.command("pretrain")
def pretrain_(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; vlgen/recipes/mini.toml is the bundled model's.")],
    stage: Annotated[list[str] | None, typer.Option(help="codec, clip or diffusion; all three if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for caches, checkpoints and the finished model.")] = Path("runs"),
    data: Annotated[Path | None, typer.Option(help="Folder of the sources, in place of the recipe's own.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print rows, parameters and steps, and stop.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure --model on the held-out rows, and stop.")] = False,
    model: Annotated[str, typer.Option(help="What --measure measures.")] = "mini",
    split: Annotated[
        Path | None, typer.Option(help="Lay out MODALITY/train and /test here, for evaluate, and stop.")
    ] = None,
) -> None:
    """Train a model from scratch; repeat the same command to resume."""
    from vlgen.pretrain import Recipe, outline, parts, pretrain
    from vlgen.pretrain import measure as figures_of

    read = Recipe.read(recipe, data=data)
    stages = tuple(stage or read.stages)
    if unknown := set(stages) - set(read.stages):
        raise ValueError(f"unknown stage {sorted(unknown)[0]!r}: this recipe has {', '.join(read.stages)}")
    folder = out / read.name
    if dry_run:
        for line in outline(read, stages):
            print(line)
        return
    if split:
        for place in parts(read, split):
            print(place)
        return
    if measure:
        print(json.dumps(figures_of(read, model, folder), indent=1))
        return
    writable(out)
    for done, step in enumerate(pretrain(read, folder, stages=stages)):
        if step.step % 50 == 0 or step.step == step.steps or not done:
            left = (step.steps - step.step) * read.training[step.stage].batch / max(step.images_per_second, 1e-9)
            figures = "  ".join(f"{name} {value:.4g}" for name, value in step.figures.items())
            print(
                f"{step.stage} {step.step}/{step.steps}  {figures}  {step.images_per_second:.1f} images/s  "
                f"{left / 60:.0f} min left",
                flush=True,
            )
    print(f"the finished parts are in {folder / 'parts'}")


@app.command()
def benchmark(
    what: Annotated[
        str,
        typer.Argument(
            help="generate; frechet: the distance against pytorch-fid's; samplers: their error on the model by cost; "
            "schedules: searched levels against diffusers' solvers where the truth is known; train-step: a step of "
            "vlgen train against one as diffusers' LoRA script does it; path: a whole image against diffusers' default."
        ),
    ] = "generate",
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the fastest counts.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Of samplers: an SVG file for the plot.")] = None,
    json_: Json = False,
) -> None:
    """Time loading the model, one image and four images at the default settings; or measure another part."""
    from vlgen.benchmark import frechet_timing, path_timing, timing

    if what in ("samplers", "schedules"):
        from vlgen.cli.samplers import print_quality, print_ratios

        print_quality(model, out, json_) if what == "samplers" else print_ratios(json_)
        return
    if what not in ("generate", "frechet", "train-step", "path"):
        raise ValueError(
            f"unknown benchmark {what!r}: choose generate, frechet, samplers, schedules, train-step, path, or a "
            "study of vlgen benchmark --help"
        )
    if what == "train-step":
        from vlgen.train import train_step_timing

        found = train_step_timing(model, repeats=repeats)
    elif what == "frechet":
        found = frechet_timing(repeats=repeats)
    else:
        found = (path_timing if what == "path" else timing)(model, repeats=repeats)
    if json_:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name:24s} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 7860,
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id from the cache.")] = "mini",
) -> None:
    """Open a page in the browser that makes images of a report; it answers this machine alone."""
    import importlib.util

    from vlgen.folder import beside

    spec = importlib.util.spec_from_file_location("vlgen_demo_generate", beside("demos") / "generate.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    page.launch(model, port)
