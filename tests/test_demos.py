"""The page: it builds, makes an image through its own API, says no in a sentence, and keeps nothing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import vlgen

FILE = Path(vlgen.__file__).parent.parent / "demos" / "generate.py"


@pytest.fixture(scope="module")
def page(own: Path) -> Any:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(vlgen.load(own))


def test_it_makes_an_image_and_says_how(page: Any) -> None:
    run = next(f.fn for f in page.fns.values() if f.api_name == "generate")
    *_, (pictures, said) = run("Chest radiograph.", "0-1", 2, "euler", 1.5, "")
    assert [caption for _, caption in pictures] == ["seed 0", "seed 1"] and "solver euler" in said


@pytest.mark.parametrize(
    ("report", "seeds", "steps", "guidance"),
    [("", "0", 2, 1.5), ("x" * 50_000, "0", 2, 1.5), ("Chest film.", "3-1", 2, 1.5), ("Chest film.", "0-50", 2, 1.5),
     ("Chest film.", "0", float("nan"), 1.5), ("Chest film.", "0", 2, float("nan")), (["a list"], "0", 2, 1.5)],
)  # fmt: skip
def test_what_the_browser_does_not_check_the_server_refuses(
    page: Any, report: Any, seeds: str, steps: Any, guidance: float
) -> None:
    import gradio as gr

    run = next(f.fn for f in page.fns.values() if f.api_name == "generate")
    with pytest.raises(gr.Error):
        next(run(report, seeds, steps, "euler", guidance, ""))


def test_the_settings_that_keep_a_report_private() -> None:
    source = FILE.read_text()
    for setting in ("run_history=False", "share=False", "enable_monitoring=False", "delete_cache"):
        assert setting in source
    assert 'server_name="127.0.0.1"' in source
    assert not re.search(r"BrowserState|flagging|gr\.load", source)
