"""Commands about adapters: adapters, and adapter check, merge, export and import."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlgen.cli.app import app
from vlgen.cli.arguments import Json

if TYPE_CHECKING:
    from vlgen.adapter import Finding

adapter = typer.Typer(help="Check, merge, export or import an adapter.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(adapter, name="adapter")

Model = Annotated[str, typer.Option(help="What it is for: mini, a folder, or a hub id from the cache.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Force = Annotated[
    bool, typer.Option("--force-adapter", help="Take what a contract says is for another model; the result says so.")
]


@app.command()
def adapters(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look; ./adapters and those that came with vlgen if not given.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the adapters that lie here and those that came with vlgen."""
    from vlgen.adapter import listing

    rows = listing(folders or None)
    if json_:
        print(json.dumps(rows))
        return
    if not rows:
        print("no adapters here; vlgen train FOLDER --out adapters/NAME makes one")
    for row in rows:
        if row["refused"]:
            print(f"{row['name']:28s} refused: {row['refused']}")
            continue
        trained = "trained" if row["trained"] else "not trained here"
        print(
            f"{row['name']:28s} {row['modality'] or 'any':5s} {row['task'] or '-':24s} base {row['base']:12s} "
            f"{row['kernel']:12s} {trained:16s} {row['size_mib']:6.2f} MiB  {row['licence'] or '-':16s} {row['card']}"
        )


@adapter.command()
def check(
    folders: Annotated[list[str], typer.Argument(help="Folders or names of adapters.")],
    model: Annotated[
        str | None, typer.Option(help="The model to try them on; the one their contract names if not given.")
    ] = None,
    json_: Json = False,
) -> None:
    """Hold adapters to their contracts, a line for each check; exit code 2 where one would be refused."""
    from vlgen.adapter import examine
    from vlgen.backbone import Backbone, load

    loaded: dict[str, Backbone] = {}
    found: dict[str, list[Finding]] = {}
    for folder in folders:
        name = model or _base(folder)
        if name not in loaded:
            loaded[name] = load(name)
        found[folder] = examine(folder, loaded[name])
        if not json_:
            _show(folder, name, found[folder])
    if json_:
        rows = {f: [{"check": e.what, "verdict": e.verdict, "said": e.said} for e in all_] for f, all_ in found.items()}
        print(json.dumps(rows))
    if any(each.verdict == "refused" for all_ in found.values() for each in all_):
        raise typer.Exit(2)


@adapter.command()
def merge(
    specs: Annotated[list[str], typer.Argument(help="Adapters, each with :SCALE if that is not 1.")],
    out: Out,
    to: Annotated[str, typer.Option(help="adapter, of the ranks' sum; or model, a folder for --model.")] = "adapter",
    name: Annotated[str, typer.Option(help="Of the result; its folder's if not given.")] = "",
    model: Model = "mini",
    force_adapter: Force = False,
) -> None:
    """Fold adapters with their scales into one, or into a model of its own."""
    from vlgen.adapter import merge as fold
    from vlgen.backbone import load

    print(fold(specs, load(model), out, to=to, name=name or out.resolve().name, force=force_adapter))


@adapter.command()
def export(
    folder: Annotated[str, typer.Argument(help="Folder or name of an adapter.")],
    to: Annotated[str, typer.Option(help="diffusers, peft or kohya.")],
    out: Annotated[Path, typer.Option(help="Folder to write into; or, but for peft, a file ending in .safetensors.")],
) -> None:
    """Write an adapter as another program reads it."""
    from vlgen.adapter import export as write

    print(write(folder, to, out))


@adapter.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A LoRA of diffusers, PEFT or kohya: its safetensors or its folder.")],
    out: Out,
    name: Annotated[str, typer.Option(help="Of the adapter; as the file says if not given.")] = "",
    modality: Annotated[str | None, typer.Option(help="cxr, ct, mri, us or pet; any if not given.")] = None,
    task: Annotated[str | None, typer.Option(help="What it is for, in a few words.")] = None,
    kernel: Annotated[str | None, typer.Option(help="It was trained under: gaussian, or pfgmpp:D.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights: cc-by-4.0.")] = None,
    model: Model = "mini",
    force_adapter: Force = False,
) -> None:
    """Give a LoRA of another program a contract, once it has been on the model it is for."""
    from vlgen.adapter import import_ as read
    from vlgen.backbone import load

    given = {"modality": modality, "task": task, "kernel": kernel, "licence": licence}
    facts = {key: value for key, value in given.items() if value is not None}
    found = read(source, load(model), out, name=name, facts=facts, force=force_adapter)
    print(f"{out}: {found.name}, rank {found.rank}, alpha {found.alpha:g}, for {found.base}")


def _base(folder: str) -> str:
    """The model that an adapter's contract names, if it is here; else the bundled one, to which it is then compared."""
    from vlgen.adapter import find, read
    from vlgen.folder import resolve

    try:
        base = read(find(folder)).base
        resolve(base)
    except ValueError:
        return "mini"
    return base


def _show(folder: str, model: str, findings: Sequence[Finding]) -> None:
    print(f"{folder} on {model}")
    for each in findings:
        print(f"  {each.verdict:8s} {each.what:13s} {each.said}".rstrip())
