"""The command benchmark attention: attention by blocks beside torch's own."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vlgen.cli.arguments import Json
from vlgen.cli.benchmarks import benchmarks


@benchmarks.command("attention")
def attention(
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the fastest counts.")] = 5, json_: Json = False
) -> None:
    """Attention over long sequences in bfloat16 on a CPU: by blocks of queries, and as torch does it."""
    from vlgen.benchmark.attention import attention_timing

    found = attention_timing(repeats=repeats)
    if json_:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name:18s} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
