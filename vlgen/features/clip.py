"""CLIP's image towers and the text towers beside them: a vlgen model's own, and BiomedCLIP's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.features.extractor import Extractor, Preprocessing, build
from vlgen.features.weights import cached, fill, state
from vlgen.folder import read_json
from vlgen.text import TextEncoder, open_clip_encoder

CONFIG, WEIGHTS, WORDS = "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
TEXT_TOWERS = ("bert", "roberta")
# What open_clip takes where a folder says nothing.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_CONVERT = (
    "where the folder holds open_clip_pytorch_model.bin, a pickle, and you trust it, convert it with "
    "safetensors.torch.save_file(torch.load('open_clip_pytorch_model.bin', weights_only=True), '" + WEIGHTS + "')"
)
_TOGETHER = 32  # texts in one forward


def own(folder: Path, name: str) -> Extractor:
    """The image tower of a CLIP that `vlgen pretrain` wrote: projected embeddings, not normalized.

    folder  with open_clip_config.json, its weights and its tokenizer
    """
    encoder = open_clip_encoder(folder)
    clip: Any = encoder.tower
    clip.visual.to(memory_format=torch.channels_last)
    config = read_json(folder / CONFIG)
    # The file says "bilinear", as open_clip knows no "area"; training resizes by area (vlgen.pretrain.clip.small).
    wants = _wants(config, {"mean": [0.5] * 3, "std": [0.5] * 3}, filter="area")

    def embed(texts: Sequence[str]) -> Tensor:
        return encoder(texts).pooled

    return _both(name, clip, wants, config, folder, embed)


def is_own(folder: Path) -> bool:
    """Whether the tokenizer of an open_clip folder is one of vlgen's."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / WORDS)).token_to_id("<begin>") is not None
    except Exception:  # the tokenizers' library raises Exception itself; the loader says what is wrong
        return False


def biomedclip(folder: Path | None, name: str = "biomedclip") -> Extractor:
    """BiomedCLIP, or another CLIP of open_clip's with a BERT for its text tower: projected embeddings, not normalized.

    Texts longer than the tower reads are read in chunks, whose mean stands for the text.

    Zhang et al. 2023, arXiv:2303.00915.
    """
    from open_clip.model import CustomTextCLIP  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    folder = folder or cached(BIOMEDCLIP, "biomedclip")
    config = read_json(folder / CONFIG)
    shape = _offline(config, folder)
    tensors = state(folder / WEIGHTS, mend=_CONVERT)
    tensors.pop("text.transformer.embeddings.position_ids", None)  # a buffer that transformers no longer keeps
    try:
        clip: Any = CustomTextCLIP(**shape)
        tokenizer = Tokenizer.from_file(str(folder / WORDS))
    except Exception as error:  # four libraries, and the tokenizers' one raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the CLIP in {folder} is damaged or incomplete: {reason}") from None
    fill(clip, tensors, folder / WEIGHTS)
    known = tokenizer.get_vocab()
    pairs = [(known[a], known[b]) for a, b in (("[CLS]", "[SEP]"), ("<s>", "</s>")) if a in known and b in known]
    if not pairs:
        raise ValueError(f"the tokenizer in {folder} has neither [CLS] and [SEP] nor <s> and </s>: give a BERT's")
    begin, end, pad = *pairs[0], int(clip.text.config.pad_token_id)
    length = int(shape["text_cfg"].get("context_length", 77))
    chunked = TextEncoder(nn.Identity(), tokenizer, max_tokens=length, chunks=4, marks=(begin, end, pad))

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Tensor:
        pieces = [chunked.tokens(text).chunks for text in texts]
        flat = [[begin, *chunk, end] for chunks in pieces for chunk in chunks]
        ids = torch.full((len(flat), max(map(len, flat))), pad)
        for row, chunk in enumerate(flat):
            ids[row, : len(chunk)] = torch.tensor(chunk)
        found = clip.encode_text(ids).split([len(chunks) for chunks in pieces])
        return torch.stack([part.mean(0) for part in found])

    return _both(name, clip, _wants(config, {"mean": _MEAN, "std": _STD}), config, folder, embed)


def _both(
    name: str,
    clip: Any,
    wants: Preprocessing,
    config: Mapping[str, Any],
    folder: Path,
    embed: Callable[[Sequence[str]], Tensor],
) -> Extractor:
    dimension = int(config["model_cfg"]["embed_dim"])

    def read(texts: Sequence[str]) -> Tensor:
        parts = [embed(texts[start : start + _TOGETHER]) for start in range(0, len(texts), _TOGETHER)]
        return torch.cat(parts).float() if parts else torch.zeros(0, dimension)

    files = [folder / file for file in (CONFIG, WEIGHTS, WORDS)]
    return build(name, clip.encode_image, wants, dimension, files, read=read)


def _wants(config: Mapping[str, Any], usual: Mapping[str, Any], *, filter: str = "") -> Preprocessing:
    """The preprocessing that an open_clip configuration states, and `usual` where it is silent."""
    given = {**usual, **config.get("preprocess_cfg", {})}
    size = given.get("size", config["model_cfg"]["vision_cfg"].get("image_size", 224))
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise ValueError(f"{CONFIG} wants images of {size} pixels: vlgen shows square ones")
    filter = filter or given.get("interpolation", "bicubic")
    return Preprocessing.normalized(size, given["mean"], given["std"], filter=filter)


def _offline(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of open_clip's class, changed so that it reads nothing but this machine's files."""
    shape: Any = config.get("model_cfg")
    try:
        vision, text = dict(shape["vision_cfg"]), dict(shape["text_cfg"])
        tower, image = text.get("hf_model_name"), str(vision.get("timm_model_name") or "")
    except (KeyError, TypeError, ValueError):
        tower = None
    if not isinstance(tower, str):
        raise ValueError(f"{folder / CONFIG} describes no CLIP with a BERT for its text tower")
    if not re.fullmatch(r"[a-z0-9_.]*", image):  # timm follows "hf-hub:" and "local-dir:" to wherever they lead
        raise ValueError(f"{folder / CONFIG} names the image tower {image!r}: give the plain name of one of timm's")
    vision["timm_model_pretrained"] = text["hf_model_pretrained"] = False
    text["hf_model_name"] = str(_bert(tower, folder))
    quick = {"quick_gelu": shape["quick_gelu"]} if "quick_gelu" in shape else {}
    return {"embed_dim": shape["embed_dim"], "vision_cfg": vision, "text_cfg": text, **quick}


def _bert(tower: str, folder: Path) -> Path:
    """The folder with the config.json of the text tower: the CLIP's own, or the tower's in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    places: list[Any] = [folder / "config.json"]
    with suppress(ValueError):  # not a name of the hub's
        places.append(try_to_load_from_cache(tower, "config.json"))
    for place in places:
        if isinstance(place, str | Path) and Path(place).is_file():
            found = read_json(Path(place))
            if found.get("model_type") in TEXT_TOWERS and "auto_map" not in found:
                return Path(place).parent
    raise ValueError(
        f"the text tower of the CLIP in {folder} is {tower}, whose config.json is neither in that folder nor in the "
        f"hub's cache: `hf download {tower} config.json` puts it there; vlgen itself never downloads"
    )
