"""Stage 2, a biomedical CLIP in miniature: open_clip's classes and loss on images and reports, and its tokenizer."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlgen.findings import VOCABULARY, Finding
from vlgen.pretrain.examples import Examples, draw, stamp
from vlgen.pretrain.recipe import Recipe
from vlgen.pretrain.statements import prose, statements
from vlgen.report import Report
from vlgen.tensors import counter
from vlgen.text import TextEncoder, text_states
from vlgen.train.loop import Task

MARKS = ("<pad>", "<begin>", "<end>")
VOCABULARY_SIZE = 2048


class _Pairs(nn.Module):
    """Features of images and of two texts each in one forward, so that several devices share the work."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, texts: Tensor, end: int) -> tuple[Tensor, Tensor, Tensor]:
        seen = F.normalize(self.clip.encode_image(images.expand(-1, 3, -1, -1)).float(), dim=-1)
        read = F.normalize(text_states(self.clip, texts, end)[1].float(), dim=-1)
        return seen, read, self.clip.logit_scale.exp().clamp(max=100)


def task(recipe: Recipe, train: Examples, test: Examples, parts: Path, device: torch.device) -> Task:
    """The CLIP of a recipe as a task for the loop.

    The loss is open_clip's own contrast over the batch, plus the choice between each image's report and the same report
    with one finding turned from present to absent or back, plus the same choice between texts alone, over the whole
    vocabulary (vlgen.pretrain.statements): a batch alone seldom holds the pair that teaches "no".
    """
    from open_clip.loss import ClipLoss

    options = recipe.options["clip"]
    words = tokenizer(recipe, train, int(options.get("vocabulary", VOCABULARY_SIZE)))
    torch.manual_seed(recipe.seed)
    clip, shape = build(options, words.get_vocab_size())
    network, side = _Pairs(clip), int(shape["vision_cfg"]["image_size"])
    contrast, batch = ClipLoss(), recipe.training["clip"].batch
    encoder = TextEncoder(nn.Linear(1, 1), words, max_tokens=clip.context_length, chunks=1, marks=(1, 2, 0))

    ids = reader(encoder, device)
    captions, said = prose(recipe.texts), int(options.get("statements", 0))

    def loss(model: nn.Module, indices: list[int], step: int) -> tuple[Tensor, dict[str, float]]:
        images = small(train.pixels[indices].float(), side).to(device)
        seeds = [counter(recipe.seed, "compose", step, k) for k in range(len(indices))]
        reports = [train.reports[i] for i in indices]
        texts = [r.compose(s, rare=True) for r, s in zip(reports, seeds, strict=True)]
        turned = [turn(r, s) for r, s in zip(reports, seeds, strict=True)]
        known = [k for k, pair in enumerate(turned) if pair]
        pairs = [stated(turned[k][j], seeds[k] + j) for j in (0, 1) for k in known]
        alone = statements(said, counter(recipe.seed, "statements", step, indices[0]), captions)
        both = ids([*texts, *pairs, *(column for row in zip(*alone, strict=True) for column in row)])
        seen, read, scale = model(images, both, 2)
        agreement = contrast(seen, read[: len(texts)], scale)
        right, wrong = read[len(texts) : len(texts) + len(pairs)].tensor_split(2)
        told, share = _choice(seen[known], right, wrong)
        spoken, kept = _choice(*read[len(texts) + len(pairs) :].tensor_split(3))
        figures = {"contrast": float(agreement.detach()), "told": share, "statements": kept}
        return agreement + told + spoken, figures

    def export(model: nn.Module) -> None:
        from safetensors.torch import save_file

        folder = parts / "text_encoder"
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in model.clip.state_dict().items()}
        halved = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        save_file(halved, folder / "open_clip_model.safetensors")
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": side, "interpolation": "bilinear"}
        config = {"model_cfg": shape, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
        words.save(str(folder / "tokenizer.json"))
        found = quality(model.clip, ids, test, recipe, side, device)
        (folder / "measured.json").write_text(json.dumps(found, indent=1))

    def picture(model: nn.Module, path: Path) -> None:
        path.with_suffix(".json").write_text(json.dumps(quality(model.clip, ids, test, recipe, side, device), indent=1))

    def indices(step: int) -> list[int]:
        return draw(train, batch, recipe.seed, step)

    return Task(network, loss, indices, picture, export, stamp(recipe, "clip", train, *recipe.texts))


def _choice(of: Tensor, right: Tensor, wrong: Tensor) -> tuple[Tensor, float]:
    """(the logistic loss of preferring the right text to the wrong one, the share that does); 0 for no pairs."""
    if not len(of):
        return of.new_zeros(()), 0.0
    margin = 10 * ((of * right).sum(1) - (of * wrong).sum(1))
    return F.softplus(-margin).mean(), float((margin > 0).float().mean())


def build(options: Any, vocabulary: int) -> tuple[Any, dict[str, Any]]:
    """(open_clip's CLIP as a recipe describes it, the configuration that makes it again)."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    shape = json.loads(json.dumps(options["model"]))
    shape["text_cfg"] |= {"vocab_size": vocabulary, "pad_id": 0, "eos_id": 2, "pool_type": "eos"}
    clip = CLIP(shape["embed_dim"], CLIPVisionCfg(**shape["vision_cfg"]), CLIPTextCfg(**shape["text_cfg"]))
    return clip, shape


def parameters(recipe: Recipe) -> int:
    """How many parameters the stage trains, if the prose fills the vocabulary."""
    options = recipe.options["clip"]
    with torch.device("meta"):
        return sum(p.numel() for p in build(options, int(options.get("vocabulary", VOCABULARY_SIZE)))[0].parameters())


def reader(encoder: TextEncoder, device: torch.device | None = None) -> Callable[[list[str]], Tensor]:
    """texts -> token ids (N, L) of their first chunks, with begin and end marks, padded to the longest."""

    def ids(texts: list[str]) -> Tensor:
        chunks = [encoder.tokens(text).chunks[0] for text in texts]
        found = torch.full((len(chunks), max(map(len, chunks)) + 2), encoder.pad)
        for row, chunk in enumerate(chunks):
            found[row, : len(chunk) + 2] = torch.tensor([encoder.begin, *chunk, encoder.end])
        return found.to(device)

    return ids


def small(x: Tensor, side: int) -> Tensor:
    """Images (B, 1, S, S) at the side that the image tower sees, by area."""
    return F.interpolate(x, size=(side, side), mode="area")


def turn(report: Report, seed: int) -> tuple[Report, Report] | None:
    """(the report with one of its findings stated, the same with that finding turned), or None where none is known.

    Of a report that says all is normal, an absent finding of its modality is stated, and then claimed to be present.
    Neither keeps side, severity or kind: they would tell the true one by its length alone.
    """
    chance = random.Random(seed)
    header = replace(report, findings=(), normal=False)
    if report.findings:
        finding = chance.choice(report.findings)
        if finding.status == "uncertain":
            return None
    elif report.normal and report.modality in _USUAL:
        finding = Finding(chance.choice(_USUAL[report.modality]), status="absent")
    else:
        return None
    finding = Finding(finding.name, finding.status)
    other = Finding(finding.name, "absent" if finding.status == "present" else "present")
    return replace(header, findings=(finding,)), replace(header, findings=(other,))


def stated(report: Report, seed: int) -> str:
    """A composed text that states the report's one finding; compose may leave an absent finding unsaid.

    Eight phrasings are tried. Where none of them names the finding, the last stands, and the pair is a weaker one.
    """
    words = VOCABULARY[report.findings[0].name].words
    for trial in range(8):
        text = report.compose(seed + 97 * trial, rare=True)
        if any(word.split("..")[0].strip() in text.lower() for word in words):
            break
    return text


_USUAL = {
    "cxr": ("pleural effusion", "pneumothorax", "pneumonia", "cardiomegaly", "edema", "atelectasis", "consolidation",
            "mass", "nodule", "infiltration", "emphysema", "fibrosis"),
    "mri": ("glioma", "meningioma", "pituitary tumor"),
    "us": ("mass",),
}  # fmt: skip


def tokenizer(recipe: Recipe, train: Examples, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer, lower case, trained on the composed reports and the recipe's own prose.

    Byte level means that no script and no typing error is out of vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(MARKS), initial_alphabet=sorted(alphabet), show_progress=False
    )
    words.train_from_iterator(_prose(recipe, train), trainer)
    return words


def _prose(recipe: Recipe, train: Examples) -> Iterator[str]:
    for k, report in enumerate(train.reports):
        for j in range(3):
            yield report.compose(counter(recipe.seed, "prose", k, j), rare=True)
    for path in recipe.texts:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                yield row.get("caption") or row.get("text") or ""


@torch.no_grad()
def quality(clip: Any, ids: Any, test: Examples, recipe: Recipe, side: int, device: torch.device) -> dict[str, Any]:
    """Retrieval and present/absent accuracy on held-out patients, with n.

    retrieval  of each image's own composed report among those of 100 images (drawn like a batch), R@1, R@5, R@10;
               many of the reports among 100 mean the same, so that even a perfect tower stays well below 1
    same       the share of images whose best report of the 100 is of the same modality
    told       the share of images that prefer their report to the one with one finding turned, per modality
    """
    was = clip.training
    clip.eval()
    network = _Pairs(clip)
    hits: dict[int, int] = {1: 0, 5: 0, 10: 0}
    same = total = 0
    for trial in range(10):
        drawn = list(dict.fromkeys(draw(test, 160, recipe.seed + 1, trial)))[:100]
        texts = [test.reports[i].compose(counter(recipe.seed, "quality", i), rare=True) for i in drawn]
        seen, read, _ = network(small(test.pixels[drawn].float(), side).to(device), ids(texts), 2)
        order = (seen @ read.T).argsort(1, descending=True)
        rank = (order == torch.arange(len(drawn), device=device)[:, None]).int().argmax(1)
        for k in hits:
            hits[k] += int((rank < k).sum())
        kinds = [test.modality(i, recipe) for i in drawn]
        same += sum(kinds[k] == kinds[int(order[k, 0])] for k in range(len(drawn)))
        total += len(drawn)
    told: dict[str, list[int]] = {}
    for start in range(0, len(test), 64):
        block = list(range(start, min(start + 64, len(test))))
        pairs = {i: turn(test.reports[i], counter(recipe.seed, "told", i)) for i in block}
        block = [i for i in block if pairs[i]]
        if block:
            both = [stated(pairs[i][j], i + j) for j in (0, 1) for i in block]  # type: ignore[index]
            seen, read, _ = network(small(test.pixels[block].float(), side).to(device), ids(both), 2)
            right, wrong = ((seen * part).sum(1) for part in read.chunk(2))
            for i, good in zip(block, (right > wrong).tolist(), strict=True):
                told.setdefault(test.modality(i, recipe), []).append(int(good))
    clip.train(was)
    return {
        "n": total,
        "retrieval": {f"R@{k}": v / total for k, v in hits.items()},
        "same modality": same / total,
        "told": {name: {"n": len(v), "accuracy": sum(v) / len(v)} for name, v in sorted(told.items())},
    }
