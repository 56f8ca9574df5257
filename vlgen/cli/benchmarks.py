"""The command benchmark: studies that are commands of their own, and beside them what one command times."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from vlgen.cli.app import app
from vlgen.cli.models import benchmark

TIME = "time"


class _Studies(TyperGroup):
    """`vlgen benchmark frechet` is `vlgen benchmark time frechet`: what names no study is timed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if known else [TIME, *args])


benchmarks = typer.Typer(
    cls=_Studies,
    help="Measure what vlgen costs and what it is worth; without a study's name, as `time` does.",
    rich_markup_mode=None,
)
benchmarks.command(TIME)(benchmark)
app.add_typer(benchmarks, name="benchmark")  # in place of the plain command of that name
