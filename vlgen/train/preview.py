"""Previews: contact sheets of where training stands, always of the same texts and seeds."""

from __future__ import annotations

from pathlib import Path

from vlgen.backbone import Backbone
from vlgen.files import store
from vlgen.generate import generate
from vlgen.images import fit
from vlgen.sheet import png, sheet
from vlgen.train.job import Job

TEXTS, SEEDS, SIDE = 4, range(4), 160


def preview(backbone: Backbone, job: Job, path: Path) -> Path:
    """Write a contact sheet: rows are up to four texts of held-out rows, or else of training rows, columns are seeds.

    A text is named by its line, never by its words. The sheet lies among what is nobody's but the user's.
    """
    chosen: dict[str, int] = {}
    for k in (*job.test, *job.train):
        if len(chosen) < TEXTS:
            chosen.setdefault(job.captions.texts[k][0], job.rows[k].line)
    rows, records = [], []
    for text in chosen:
        images = generate(backbone, text, seeds=SEEDS)
        rows.append([fit(x, min(SIDE, backbone.size)) for x in images.shown()])
        records += [{k: v for k, v in one.items() if k not in ("report", "negative")} for one in images.provenance]
    labels = [f"line {line}" for line in chosen.values()]
    return store(path, png(sheet(rows, labels), {"synthetic": True, "sheet": records}))
