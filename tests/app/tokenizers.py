"""Tokenizers of both kinds that Phi-3 models have."""

import functools
from pathlib import Path

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.tokenizer import Tokenizer


@functools.cache
def byte_level(demo: Path) -> Tokenizer:
    """Return the tokenizer of the demo model, whose tokens are single bytes and runs of bytes."""
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@functools.cache
def byte_fallback(_: Path) -> Tokenizer:
    """Return a tokenizer with the decoder of Phi-3: words with a leading space, and one token for each other byte."""
    words = ["\u2581", "\u2581a", "b", "\u2581\u2581", "\ufffd", "\u00e9", "c."]
    vocab = {token: number for number, token in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    backend = Backend(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
