"""What all file formats share: refusal with a reason, writing as a whole, and provenance as JSON."""

from __future__ import annotations

import json
import logging
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_PIXELS = 40_000_000
MAX_BYTES = 1 << 30


class Refused(ValueError):
    """A file that cannot be used, and why, in one sentence that quotes nothing of what the file holds."""


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a parser raises into one Refused; the parser's own words may quote a patient, so they are cut."""
    # Both are global to the process, but parsers warn and log the offending value, and a log is no place for it.
    logs = [logging.getLogger(name) for name in ("pydicom", "PIL", "nibabel")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Refused:
        raise
    except Exception as error:  # every parser, codec, recursion and memory error ends here
        raise Refused(f"{path.name}: not a readable {kind} file ({type(error).__name__})") from None
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def check_file(path: Path) -> None:
    """Refuses what is not a regular file of at most 1 GiB."""
    if not path.is_file():
        raise Refused(f"{path.name}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.name}: larger than 1 GiB, the most that is read")


def store(path: Path, data: bytes) -> Path:
    """Writes a whole file or nothing: a temporary file in the same folder, fsync, rename over the old one."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too: nothing half-written stays behind
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ValueError(f"cannot write into {path.parent}: {error.strerror or type(error).__name__}") from None
    return path


def compact(record: Mapping[str, object]) -> str:
    """A record as JSON: ASCII, keys sorted, no spaces, so that the same record gives the same bytes."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def marks(text: str, name: str) -> dict[str, Any]:
    """The provenance that a file carries as JSON; refused where it does not say that the image is synthetic."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("synthetic") is not True:
        raise Refused(f"{name}: not written by vlgen")
    return found
