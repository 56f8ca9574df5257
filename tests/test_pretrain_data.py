"""What pretraining draws from: twins found and kept together, patients drawn alike, statements that are true."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlgen.dataset import Dataset, Row, grouped
from vlgen.findings import Finding
from vlgen.modality import modality
from vlgen.pretrain.codec import distance
from vlgen.pretrain.examples import Examples, draw
from vlgen.pretrain.statements import prose, statements
from vlgen.report import Report


def test_twins_are_one_cluster_and_strangers_are_not(tmp_path: Path) -> None:
    """Four pictures, each three times: as it is, brighter, and saved badly; and the pictures are unlike."""
    chance = np.random.default_rng(0)
    names = []
    for k in range(4):
        base = np.kron(chance.random((6, 6)), np.ones((16, 16))) * 200
        for j, pixels in enumerate((base, base * 0.8 + 30, base)):
            name = f"{k}-{j}.{'jpg' if j == 2 else 'png'}"
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name, **({"quality": 20} if j == 2 else {}))
            names.append(name)
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},Brain MRI. Glioma.\n" for n in names))
    rows = grouped(Dataset(tmp_path).rows, modality("mri"))
    clusters = {row.file.name: row.patient for row in rows}
    assert len(set(clusters.values())) == 4
    for k in range(4):
        assert len({clusters[name] for name in names if name.startswith(f"{k}-")}) == 1
    assert len({row.patient for row in grouped(Dataset(tmp_path).rows, modality("mri"), alike=2.0)}) == 12


def test_known_patients_are_left_as_they_are(tmp_path: Path) -> None:
    row = Row(tmp_path / "missing.png", "x", "p1", "s", {}, 1)
    assert grouped([row, replace(row, patient="")], modality("cxr")) == [row, replace(row, patient="")]


def test_a_patient_with_many_images_is_drawn_no_more_often() -> None:
    rows = tuple(Row(Path(f"{k}.png"), "x", "many" if k < 9 else "one", "s", {}, k) for k in range(10))
    examples = Examples(torch.zeros(10, 1, 2, 2), (Report.parse("x"),) * 10, rows, (0,) * 10, (1.0,), "")
    counts = Counter(index for step in range(300) for index in draw(examples, 8, 0, step))
    assert counts[9] / sum(counts.values()) == pytest.approx(0.5, abs=0.04)
    assert draw(examples, 8, 0, 5) == draw(examples, 8, 0, 5) != draw(examples, 8, 1, 5)


def test_statements_are_true_as_the_parser_reads_them() -> None:
    """The parser was written for reading, compose for writing: where they agree, the sentence says what it should."""
    agreed = read = 0
    for text, right, wrong in statements(400, 3, []):
        assert text and right and wrong and right != wrong
        said = {f.name: f.status for f in Report.parse(right).findings if f.status != "uncertain"}
        denied = {f.name: f.status for f in Report.parse(wrong).findings if f.status != "uncertain"}
        for name in set(said) & set(denied):
            read += 1
            agreed += said[name] != denied[name]
            whole = {f.name: f.status for f in Report.parse(text).findings}
            if name in whole:
                agreed -= whole[name] == denied[name]
    assert read > 250 and agreed / read > 0.97


def test_statements_repeat_by_seed_and_vary() -> None:
    assert statements(20, 1, []) == statements(20, 1, []) != statements(20, 2, [])
    assert len({text for text, *_ in statements(200, 1, [])}) > 190


def test_captions_become_statements(tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("caption\nChest radiograph shows a left pleural effusion.\nA photograph of a dog.\n")
    found = prose([table])
    assert [[f.name for f in findings] for _, findings in found] == [["pleural effusion"]]
    assert found[0][1] == (Finding("pleural effusion", "present", "left"),)
    texts = {text for text, *_ in statements(100, 0, found)}
    assert "Chest radiograph shows a left pleural effusion." in texts


def test_negatives_stand_beside_positives() -> None:
    """A film with an effusion is now and then said to have no pneumothorax, and never one that it has."""
    report = Report.parse("PA chest radiograph. Pleural effusion.")
    texts = [report.compose(seed, rare=True) for seed in range(400)]
    share = sum("pneumothorax" in text.lower() for text in texts) / 400
    assert 0.03 < share < 0.4
    found = Report.parse("PA chest radiograph. Pneumothorax.")
    for seed in random.Random(0).sample(range(10_000), 200):
        said = {f.name: f.status for f in Report.parse(found.compose(seed, rare=True)).findings}
        assert said.get("pneumothorax") == "present"


def test_the_perceptual_distance_sees_blur_where_the_mean_error_sees_none() -> None:
    """Of two pictures with equal L1 + RMSE from the first, the blurred one is perceptually farther."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from vlgen.pretrain.perceptual import Perceptual

    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.randn(2, 1, 66, 66, generator=g), 3, 1).mul(2).tanh()
    far = Perceptual()
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    error = float(distance(blurred, x))
    shift = x + 0.01
    shift = x + (shift - x) * error / float(distance(shift, x))
    assert float(distance(shift, x)) == pytest.approx(error, rel=0.02)
    assert float(far(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(far(blurred, x)) > 1.5 * float(far(shift, x))
    blurred.requires_grad_()
    far(blurred, x).backward()
    assert float(blurred.grad.abs().sum()) > 0 and not any(p.requires_grad for p in far.parameters())


def test_the_split_is_laid_out_as_evaluate_reads_it(tmp_path: Path) -> None:
    """Every image is on one side, no patient on both, and the links lead to the images."""
    from test_pretrain import SPEED, toml

    from vlgen.dataset import Dataset, stated
    from vlgen.evaluate import gather
    from vlgen.pretrain import Recipe, parts

    films = tmp_path / "films"
    films.mkdir()
    chance = np.random.default_rng(0)
    with open(films / "metadata.csv", "w") as file:
        file.write("file_name,patient,text\n")
        for k in range(30):
            Image.fromarray((chance.random((16, 16)) * 255).astype(np.uint8)).save(films / f"{k}.png")
            file.write(f"{k}.png,p{k // 3},Chest radiograph. Pneumonia.\n")
    recipe = tmp_path / "recipe.toml"
    stages = "".join(
        f"[{name}]\nsteps = 1\nbatch = 1\n{SPEED}model = {toml(model)}\n{more}"
        for name, model, more in (
            ("codec", {}, ""),
            ("clip", {"embed_dim": 8, "vision_cfg": {"image_size": 8}, "text_cfg": {"width": 8}}, ""),
            ("diffusion", {}, 'scheduler = {prediction_type = "epsilon"}\n'),
        )
    )
    source = '[[source]]\nfolder = "films"\nmodality = "cxr"\n'
    recipe.write_text(f'name = "x"\nsize = 32\nheld_out = 0.4\n{source}{stages}')
    places = list(parts(Recipe.read(recipe), tmp_path / "split"))
    named = {p.relative_to(tmp_path / "split").as_posix(): p for p in places}
    assert list(named) == ["cxr/train", "all/train", "cxr/test", "all/test", "films.csv"]
    train, test = (gather(named[f"cxr/{part}"]) for part in ("train", "test"))
    assert gather(named["all/test"]).digests == test.digests, "the only modality is all there is"
    assert len(train) + len(test) == 30 and len(test) >= 3
    assert not set(train.groups) & set(test.groups) and not set(train.digests) & set(test.digests)
    assert train.findings[0] == {"pneumonia": True}
    sides = stated(Dataset(films, table=places[-1]).rows)
    assert [len(sides[name]) for name in ("train", "test")] == [len(train), len(test)], "as vlgen train reads it"
    with pytest.raises(ValueError, match="exists already"):
        list(parts(Recipe.read(recipe), tmp_path / "split"))
