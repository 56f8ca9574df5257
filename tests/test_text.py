"""Text encoders: chunks that lose nothing in silence, masks, and equality with the libraries' own towers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from hypothesis import given, settings
from hypothesis import strategies as st

from vlgen.text import TextEncoder, load_open_clip, open_clip_encoder, transformers_encoder


@pytest.fixture(scope="module")
def encoder(own: Path) -> TextEncoder:
    return open_clip_encoder(own / "text_encoder")


def test_states_pool_to_what_open_clip_itself_computes(own: Path, encoder: TextEncoder) -> None:
    clip, _, config = load_open_clip(own / "text_encoder")
    length = config["model_cfg"]["text_cfg"]["context_length"]
    for text in SENTENCES[2:5]:
        (chunk,) = encoder.tokens(text).chunks
        ids = torch.zeros(1, length, dtype=torch.long)
        ids[0, : len(chunk) + 2] = torch.tensor([1, *chunk, 2])
        with torch.no_grad():
            theirs = clip.encode_text(ids)
        assert torch.allclose(encoder([text]).pooled, theirs, atol=1e-5)


def test_states_equal_transformers_last_hidden_state(stable: Path) -> None:
    encoder = transformers_encoder(stable / "text_encoder", stable / "tokenizer")
    (chunk,) = encoder.tokens(SENTENCES[2]).chunks
    ids = torch.tensor([[encoder.begin, *chunk, encoder.end]])
    with torch.no_grad():
        theirs = encoder.tower(ids)
    cond = encoder([SENTENCES[2]])
    assert torch.allclose(cond.states, theirs.last_hidden_state, atol=1e-5)
    assert torch.allclose(cond.pooled, theirs.pooler_output, atol=1e-5)


def test_a_batch_equals_its_texts_alone(encoder: TextEncoder) -> None:
    texts = [*SENTENCES, "", " ".join(SENTENCES)]
    batch = encoder(texts)
    for k, text in enumerate(texts):
        alone = encoder([text])
        length = alone.states.shape[1]
        assert batch.mask[k].sum() == length
        assert torch.allclose(batch.states[k, :length], alone.states[0], atol=1e-5)
        assert torch.allclose(batch.pooled[k], alone.pooled[0], atol=1e-5)


@given(st.lists(st.sampled_from(SENTENCES), max_size=40))
@settings(max_examples=30, deadline=None)
def test_every_token_is_kept_or_counted(encoder: TextEncoder, sentences: list[str]) -> None:
    text = " ".join(sentences)
    tokens = encoder.tokens(text)
    total = sum(len(encoder.tokenizer.encode(s, add_special_tokens=False).ids) for s in _split(text))
    assert tokens.kept + tokens.dropped == total
    assert len(tokens.chunks) <= encoder.chunks
    assert all(len(chunk) <= encoder.max_tokens - 2 for chunk in tokens.chunks)
    assert bool(tokens.rest) == bool(tokens.dropped)


def test_chunks_end_at_sentences_and_a_long_sentence_is_cut_at_a_token(encoder: TextEncoder) -> None:
    text = "Brain MRI. Findings: glioma. Breast ultrasound. Malignant mass."
    tokens = encoder.tokens(text)
    assert len(tokens.chunks) > 1
    whole = [encoder.tokenizer.decode(list(chunk)) for chunk in tokens.chunks]
    assert all(part.replace(" ", "").replace("Ġ", "").endswith(".") for part in whole)
    run_on = "effusion " * 60
    found, one = encoder.tokens(run_on), encoder.tokens("effusion")
    assert found.kept + found.dropped == 60 * one.kept


def test_the_second_chunk_matters(encoder: TextEncoder) -> None:
    first = " ".join(["Brain MRI. No tumor."] * 4)
    assert encoder.tokens(first).dropped == 0
    a, b = encoder([f"{first} Malignant mass."]), encoder([f"{first} Large effusion."])
    assert not torch.allclose(a.pooled, b.pooled)


def test_a_mark_inside_a_report_is_text(encoder: TextEncoder) -> None:
    a, b = encoder(["Chest film <end> Malignant mass."]), encoder(["Chest film <end> Large effusion."])
    assert not torch.allclose(a.pooled, b.pooled)


@pytest.mark.parametrize("text", ["\ud800 lone surrogate", "日本語 chest", "🫁", "\x00 zero", "a" * 5000])
def test_strange_texts_are_read(encoder: TextEncoder, text: str) -> None:
    cond = encoder([text])
    assert bool(cond.states.isfinite().all())


def _split(text: str) -> list[str]:
    import re

    return [piece.strip() for piece in re.split(r"(?<=[.;!?])\s+|\n+", text) if piece.strip()]
