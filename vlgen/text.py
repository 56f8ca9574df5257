"""Text encoders, and long reports through short encoders: chunked at sentences, masked, never cut in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cond:
    """What a denoiser is told: the states of the text's tokens, which of them are real, and one vector for the whole.

    states  (B, L, W)
    mask    (B, L) bool, True where a token is
    pooled  (B, P)
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: slice) -> Cond:
        return Cond(self.states[index], self.mask[index], self.pooled[index])

    def repeat(self, times: int) -> Cond:
        """The same conditions for `times` images each."""
        return Cond(*(part.repeat_interleave(times, 0) for part in (self.states, self.mask, self.pooled)))


def join(conds: Sequence[Cond]) -> Cond:
    """Conditions one after the other; shorter ones are padded, and the padding is masked."""
    length = max(cond.states.shape[1] for cond in conds)
    states, masks = [], []
    for cond in conds:
        missing = length - cond.states.shape[1]
        states.append(nn.functional.pad(cond.states, (0, 0, 0, missing)))
        masks.append(nn.functional.pad(cond.mask, (0, missing)))
    return Cond(torch.cat(states), torch.cat(masks), torch.cat([cond.pooled for cond in conds]))


@dataclass(frozen=True)
class Tokens:
    """A text as its encoder reads it.

    chunks   token ids without begin and end marks, one list per chunk; the empty text is one empty chunk
    kept     tokens in the chunks
    dropped  tokens beyond the last chunk
    rest     the text that was dropped
    """

    chunks: tuple[tuple[int, ...], ...]
    kept: int
    dropped: int
    rest: str


class TextEncoder:
    """A text tower and its tokenizer, reading texts of up to `chunks` times its own length.

    tower       open_clip's CLIP, or transformers' CLIPTextModel
    tokenizer   of the `tokenizers` library
    max_tokens  tokens of one chunk, begin and end marks included
    chunks      the most chunks that a text may take; what is beyond is dropped, and counted
    """

    def __init__(self, tower: nn.Module, tokenizer: Any, *, max_tokens: int, chunks: int, marks: tuple[int, int, int]):
        self.tower, self.tokenizer = tower.float().eval().requires_grad_(False), tokenizer
        tokenizer.no_truncation()  # a limit in somebody's file would cut in silence
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "<end>" in a report is text, not the end
        self.max_tokens, self.chunks = max_tokens, chunks
        self.begin, self.end, self.pad = marks

    def tokens(self, text: str) -> Tokens:
        """The chunks of a text: whole sentences while they fit, a sentence longer than a chunk at a token."""
        room = self.max_tokens - 2
        chunks: list[list[int]] = [[]]
        rest: list[str] = []
        for piece in _sentences(text):
            ids = self.tokenizer.encode(piece, add_special_tokens=False).ids
            for part in (ids[i : i + room] for i in range(0, len(ids), room)):
                if len(chunks[-1]) + len(part) > room:
                    chunks.append([])
                chunks[-1] += part
            if len(chunks) > self.chunks:
                rest.append(piece)
        over = chunks[self.chunks :]
        dropped = sum(map(len, over))
        kept = chunks[: self.chunks]
        return Tokens(tuple(map(tuple, kept)), sum(map(len, kept)), dropped, " ".join(rest))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Cond:
        """The texts' token states with their mask, and their pooled vectors (the mean over a text's chunks)."""
        tokenized = [self.tokens(text).chunks for text in texts]
        flat = [chunk for chunks in tokenized for chunk in chunks]
        length = max(map(len, flat)) + 2
        ids = torch.full((len(flat), length), self.pad)
        for row, chunk in enumerate(flat):
            ids[row, : len(chunk) + 2] = torch.tensor([self.begin, *chunk, self.end])
        states, pooled = self._states(ids.to(next(self.tower.parameters()).device))
        conds, start = [], 0
        for chunks in tokenized:
            rows = range(start, start + len(chunks))
            kept = torch.cat([states[row, : len(flat[row]) + 2] for row in rows])[None]
            mask = torch.ones(kept.shape[:2], dtype=torch.bool, device=kept.device)
            conds.append(Cond(kept, mask, pooled[rows.start : rows.stop].mean(0, keepdim=True)))
            start += len(chunks)
        return join(conds)

    def _states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, W) states and (N, P) pooled vectors of token ids; the towers are causal, so padding is inert."""
        if hasattr(self.tower, "token_embedding"):
            return text_states(self.tower, ids, self.end)
        found = self.tower(ids)
        return found.last_hidden_state, found.pooler_output


def text_states(clip: Any, ids: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Token states after the last norm, and the projected state of the end mark, of open_clip's CLIP.

    open_clip's own encode_text wants every text padded to the context length and returns the pooled vector alone.
    """
    length = ids.shape[1]
    x = clip.token_embedding(ids) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    last = (ids == end).int().argmax(1)
    return x, x[torch.arange(len(x), device=x.device), last] @ clip.text_projection


def load_open_clip(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """(CLIP, tokenizer, its configuration) from a folder as open_clip's `local-dir:` reads it, and `tokenizer.json`."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    try:
        config = json.loads((folder / "open_clip_config.json").read_text())
        shape = config["model_cfg"]
        clip = CLIP(shape["embed_dim"], CLIPVisionCfg(**shape["vision_cfg"]), CLIPTextCfg(**shape["text_cfg"]))
        clip.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # three libraries, and the tokenizers' one raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the text encoder in {folder} is damaged or incomplete: {reason}") from None
    return clip.eval(), tokenizer, config


def open_clip_encoder(folder: Path, *, chunks: int = 4) -> TextEncoder:
    """The text tower of an open_clip folder with its own tokenizer."""
    clip, tokenizer, config = load_open_clip(folder)
    marks = tuple(tokenizer.token_to_id(mark) for mark in ("<begin>", "<end>", "<pad>"))
    if None in marks:
        raise ValueError(f"the tokenizer in {folder} has no <begin>, <end> and <pad>: it is not one of vlgen's")
    return TextEncoder(
        clip, tokenizer, max_tokens=config["model_cfg"]["text_cfg"]["context_length"], chunks=chunks, marks=marks
    )


def transformers_encoder(text_encoder: Path, tokenizer: Path, *, chunks: int = 4) -> TextEncoder:
    """The CLIP text encoder of a Stable Diffusion folder, from transformers' own class and safetensors alone."""
    from transformers import CLIPTextModel, CLIPTokenizerFast

    config = json.loads((text_encoder / "config.json").read_text())
    if config.get("architectures") != ["CLIPTextModel"]:
        raise ValueError(f"{text_encoder} holds {config.get('architectures')}: give a folder with a CLIPTextModel")
    tower = CLIPTextModel.from_pretrained(text_encoder, local_files_only=True, use_safetensors=True)
    words = CLIPTokenizerFast.from_pretrained(tokenizer, local_files_only=True)
    marks = (words.bos_token_id, words.eos_token_id, words.pad_token_id)
    length = int(config.get("max_position_embeddings", 77))
    return TextEncoder(tower, words.backend_tokenizer, max_tokens=length, chunks=chunks, marks=marks)


def _sentences(text: str) -> Iterator[str]:
    """Pieces that end at a full stop, a semicolon or a line's end; a lone surrogate becomes a question mark."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    for piece in re.split(r"(?<=[.;!?])\s+|\n+", text):
        if piece.strip():
            yield piece.strip()
