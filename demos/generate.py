"""A page for one job: a report becomes images. It answers this machine alone and keeps nothing of the text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

# Before gradio is imported: no telemetry, and a cache of this process alone, readable by nobody else.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("GRADIO_TEMP_DIR", tempfile.mkdtemp(prefix="vlgen-"))

import gradio as gr

from vlgen.backbone import Backbone, load
from vlgen.cli import seed_list
from vlgen.generate import sample
from vlgen.images import write
from vlgen.plan import plan
from vlgen.solvers import SOLVERS

EXAMPLES = (
    "PA chest radiograph, 58-year-old man. Large left pleural effusion. No pneumothorax.",
    "Chest radiograph of a child. Bacterial pneumonia.",
    "Brain MRI. Findings: meningioma.",
    "Breast ultrasound. Malignant mass.",
    "Axial chest CT with contrast, 64-year-old female.",
)
BANNER = "**Synthetic images. Not for diagnosis.** Made by a small model trained on little data."


def build(backbone: Backbone) -> gr.Blocks:
    """The page for a backbone: report, seeds, sampler, a gallery, and the line that says how the images were made."""

    def run(
        report: str, seeds: str, steps: int, solver: str, guidance: float, negative: str
    ) -> Iterator[tuple[Any, str]]:
        try:
            todo = plan(
                backbone,
                report,
                seeds=seed_list(str(seeds)[:100]),
                steps=steps,
                solver_name=str(solver),
                guidance_scale=guidance,
                negative=negative,
            )
            if len(todo.seeds) > 16:
                raise ValueError(f"{len(todo.seeds)} seeds were given: this page makes at most 16 images at a time")
        except (ValueError, TypeError) as error:
            raise gr.Error(str(error)) from None
        tokens = f"tokens kept {todo.tokens.kept}, dropped {todo.tokens.dropped}"
        text = "\n".join([todo.line(), tokens, *(f"note: {note}" for note in todo.notes)])
        pictures: list[tuple[str, str]] = []
        for progress in sample(backbone, todo):  # a generator: Stop ends it within one step
            if progress.finished:
                # written as files, so that what the browser saves carries the mark that it is synthetic
                paths = write(progress.finished, os.environ["GRADIO_TEMP_DIR"])
                pictures += [
                    (str(path), f"seed {r['seed']}")
                    for path, r in zip(paths, progress.finished.provenance, strict=True)
                ]
                yield pictures, text
            else:
                yield gr.skip(), f"{text}\nstep {progress.step} of {progress.steps}, {progress.done} images done"

    own = backbone.defaults
    with gr.Blocks(title="vlgen", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.Markdown(f"# Report to image\n{BANNER}")
        report = gr.Textbox(label="Report", lines=3, value=EXAMPLES[0], max_length=20_000)
        with gr.Row():
            seeds = gr.Textbox(label="Seeds, one image each", value="0-3", max_length=100)
            steps = gr.Slider(1, 100, value=int(own.get("steps", 25)), step=1, label="Steps")
            first = str(own.get("solver", "dpmpp_2m"))  # with its options, as the model's makers chose them
            solver = gr.Dropdown(list(dict.fromkeys([first, *SOLVERS])), value=first, label="Solver")
            guidance = gr.Slider(1, 10, value=float(own.get("guidance_scale", 5)), step=0.1, label="Guidance scale")
        negative = gr.Textbox(label="What it should not show", max_length=2_000)
        with gr.Row():
            go, stop = gr.Button("Make images", variant="primary"), gr.Button("Stop")
        gallery = gr.Gallery(label="Synthetic images", columns=4, format="png")
        said = gr.Textbox(label="How they were made", lines=4, interactive=False)
        gr.Examples([[text] for text in EXAMPLES], inputs=[report])
        inputs = [report, seeds, steps, solver, guidance, negative]
        work = go.click(run, inputs, [gallery, said], api_name="generate", concurrency_limit=1)
        stop.click(None, cancels=[work])
    return page


def launch(model: str, port: int) -> None:
    """Serve the page on this machine: no share link, no history in the browser, no telemetry."""
    page = build(load(model)).queue(max_size=8, default_concurrency_limit=1)
    print(f"http://127.0.0.1:{port}")
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        strict_cors=True,
        max_file_size="1mb",
        show_error=True,
    )


if __name__ == "__main__":
    launch("mini", 7860)
