"""The command line: every command prints what it resolved, does one job, and ends with one sentence when it cannot."""

from __future__ import annotations

import sys
from typing import Any

import typer

from vlgen.cli import (  # noqa: F401  (importing them adds their commands)
    adapters,
    attention,
    denoise,
    distill,
    evaluate,
    images,
    kernels,
    models,
    samplers,
    scarcity,
    train,
)
from vlgen.cli.app import app
from vlgen.cli.arguments import seed_list

__all__ = ["app", "main", "seed_list"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake ends in one sentence and exit code 2, Ctrl-C in 130; no traceback."""
    try:
        code = app((sys.argv[1:] if arguments is None else arguments) or ["--help"], standalone_mode=False) or 0
    except _UsageError as error:
        code = _refuse(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        print("\nstopped; what was finished is kept", file=sys.stderr)
        code = 130
    except (ValueError, OSError) as error:
        code = _refuse(str(error))
    except FloatingPointError as error:
        print(f"vlgen: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


_UsageError: Any = typer.BadParameter.__mro__[1]  # click's own, or that of the click inside newer releases of typer


def _refuse(sentence: str) -> int:
    print(f"vlgen: {' '.join(sentence.split())}", file=sys.stderr)
    return 2
