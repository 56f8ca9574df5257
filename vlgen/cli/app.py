"""The application that every command joins."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Medical images from words. Everything that is written is synthetic and says so.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
