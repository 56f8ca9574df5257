"""The house: a module imports only from floors below it, and on its own floor only from its left."""

from __future__ import annotations

import ast
from pathlib import Path

import vlgen

FLOORS = (
    "tensors > modality > findings > report",
    "kernels schedules solvers guidance operators metrics",
    "files > checkpoint > sheet > dicom > nifti > images > dataset",
    "text > folder > attention > precision > adapter > backbone > features",
    "asked > plan > generate > hijack > samplers > reconstruct > evaluate > train > distill > pretrain > benchmark",
    "cli",
)
PLACE = {
    name: (floor, column if ">" in line else 0)
    for floor, line in enumerate(FLOORS)
    for column, name in enumerate(line.replace(">", " ").split())
}
HOUSE = Path(vlgen.__file__).parent


def imported(file: Path) -> set[str]:
    """Rooms that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlgen":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vlgen.")}
    return found - {"__version__"}


def test_every_import_goes_down_or_left() -> None:
    wrong = []
    for file in HOUSE.rglob("*.py"):
        room = file.relative_to(HOUSE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", "demos"):
            continue
        assert room in PLACE, f"{room} has no place in the house: add it to FLOORS and to the README"
        floor, column = PLACE[room]
        for other in imported(file) - {room}:
            below, left = PLACE[other]
            if not (below < floor or (below == floor and left < column)):
                wrong.append(f"{room} imports {other}")
    assert not wrong, wrong


def test_the_walls_hold_a_wrong_import(tmp_path: Path) -> None:
    file = tmp_path / "kernels.py"
    file.write_text("import vlgen.cli\nfrom vlgen import solvers\ndef f():\n    from vlgen.images import read\n")
    assert imported(file) == {"cli", "solvers", "images"}
    assert PLACE["dicom"] < PLACE["images"] < PLACE["backbone"] < PLACE["generate"] < PLACE["cli"]
    assert PLACE["kernels"] == (1, 0) == PLACE["solvers"], "neighbors without > do not know each other"


def test_no_file_is_longer_than_300_lines() -> None:
    root = HOUSE.parent
    files = [*HOUSE.rglob("*.py"), *(root / "demos").glob("*.py")]
    assert not [f"{f.name}: {n}" for f in files if (n := len(f.read_text().splitlines())) > 300]
