"""A folder of small pictures with reports, as somebody would bring it to a fine-tune."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

TEXTS = ("PA chest radiograph. No acute finding.", "AP chest radiograph. Large left pleural effusion. No pneumothorax.")


def films(root: Path, count: int = 14, *, texts: Sequence[str] = TEXTS, names: Sequence[str] | None = None) -> Path:
    """Bars whose place follows from the text, with noise, two pictures a patient; metadata.csv with a side for each."""
    root.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "patient", "text", "split"])
        for k in range(count):
            pixels = torch.rand(40, 32, generator=generator) * 120
            pixels[:, 4 + 16 * (k % 2) : 12 + 16 * (k % 2)] += 120
            Image.fromarray(pixels.byte().numpy()).save(root / f"{k}.png")
            name = names[k] if names else f"p{k // 2}"
            table.writerow([f"{k}.png", name, texts[k % len(texts)], "test" if k < 4 else "train"])
    return root
