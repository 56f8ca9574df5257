"""What the documents say is true: their snippets run, their files exist, their model card is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlgen

ROOT = Path(vlgen.__file__).parent.parent
MINI = ROOT / "vlgen" / "mini" / "model_index.json"


def snippets(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.S)


@pytest.mark.skipif(not MINI.is_file(), reason="the bundled model is not in this checkout")
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = snippets("README.md", "python")
    assert found
    for snippet in found:
        exec(compile(snippet, "README.md", "exec"), {})
    assert list((tmp_path / "out").iterdir())


def test_every_command_of_the_documents_exists() -> None:
    import typer

    from vlgen.cli import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for file in ("README.md", "CONTRIBUTING.md", "model_cards/mini.md"):
        for block in snippets(file, "sh"):
            for name in re.findall(r"^\s*vlgen (\w+)", block, re.M):
                assert name in known, f"{file} names the command {name}"


def test_every_link_leads_somewhere() -> None:
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "model_cards").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_model_card_has_what_the_hub_reads() -> None:
    head = (ROOT / "model_cards" / "mini.md").read_text().split("---")[1]
    for key in ("license", "library_name", "pipeline_tag", "tags", "datasets"):
        assert re.search(rf"^{key}:", head, re.M), key


def test_nothing_is_left_to_be_filled_in() -> None:
    for file in (ROOT / "README.md", *(ROOT / "model_cards").glob("*.md")):
        assert not re.findall(r"\b(NUMBERS|SHEET|DIFFSTEPS|WHEEL|SUITE|TODO)\b", file.read_text()), file.name


def test_weights_stay_small() -> None:
    files = [*(ROOT / "vlgen").rglob("*.safetensors"), *(ROOT / "adapters").rglob("*.safetensors")]
    assert sum(f.stat().st_size for f in files) <= 32 * 2**20
