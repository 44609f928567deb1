"""The tokenizer, alone and on many threads, and text as it comes."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.tokenizer import Detokenizer, Tokenizer

TEXT = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


def test_ids_are_those_of_transformers(tokenizer: Tokenizer, demo: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(demo)
    assert tokenizer.encode(TEXT) == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert (
        tokenizer.encode_plain(TEXT) == theirs(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    )


def test_tags_are_control_tokens_or_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|end|>") == [2]
    assert 2 not in tokenizer.encode_plain("<|end|>")
    assert tokenizer.decode(tokenizer.encode("a<|end|>b")) == "ab"
    assert tokenizer.decode(tokenizer.encode_plain("a<|end|>b")) == "a<|end|>b"


def test_any_text_survives_the_way_there_and_back(tokenizer: Tokenizer) -> None:
    text = "Größe 数学 🙂\u200d🙂 \x00\ttab  spaces ."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_cleaning_up_takes_out_spaces_before_punctuation_and_in_contractions(tokenizer: Tokenizer) -> None:
    assert tokenizer.clean_up("It 's me , is n't it ?") == "It's me, isn't it?"


def test_threads_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    tagged, plain = tokenizer.encode(TEXT), tokenizer.encode_plain(TEXT)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: tokenizer.encode(TEXT) if n % 2 else tokenizer.encode_plain(TEXT), range(4000))
        )
    assert answers == [plain, tagged] * 2000


@functools.cache
def byte_level(demo: Path) -> Tokenizer:
    """The demo model's: each of the 256 bytes is a token, and so are runs of them."""
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@functools.cache
def byte_fallback(_: Path) -> Tokenizer:
    """As Phi-3's own, decoder and all: words with their space before them, and a token a byte of what is no word."""
    words = ["\u2581", "\u2581a", "b", "\u2581\u2581", "\ufffd", "\u00e9", "c."]
    vocabulary = {token: number for number, token in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


# Tokens of which the characters of "é", "€" and an emoji can be put together, and others.
IDS = {
    byte_level: [0, 2, 28, 253, 260, 339, *range(100, 130), 30000, 45000],
    byte_fallback: [*range(7), *(7 + byte for byte in "\u00e9\u20ac\U0001f642 a\n".encode()), 7 + 0xFF, 263],
}


def test_byte_tokens_and_control_tokens_are_known(demo: Path) -> None:
    assert byte_fallback(demo).byte_ids == set(range(7, 263))
    assert byte_fallback(demo).control_ids == {263}
    assert not byte_level(demo).byte_ids


@pytest.mark.parametrize(("kind", "ids"), IDS.items(), ids=["byte_level", "byte_fallback"])
@given(data=st.data())
def test_pieces_of_text_are_together_what_decoding_the_whole_gives(
    demo: Path, kind: Callable[[Path], Tokenizer], ids: list[int], data: st.DataObject
) -> None:
    tokenizer = kind(demo)
    some = st.lists(st.sampled_from(ids), max_size=40)
    prompt, answer = tokenizer.encode("a") + data.draw(some), data.draw(some)
    text = Detokenizer(tokenizer, prompt)
    pieces = [text.add(token) for token in answer]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    whole = tokenizer.decode(prompt + answer)[len(tokenizer.decode(prompt)) :]
    assert "".join(pieces) + text.end() == whole


def test_no_piece_shows_half_a_character(tokenizer: Tokenizer) -> None:
    answer = tokenizer.encode("a\U0001f9d9\u200d\u2642\ufe0f\u00e9 b")
    text = Detokenizer(tokenizer, tokenizer.encode("x"))
    pieces = [text.add(token) for token in answer]
    assert len(answer) > len([piece for piece in pieces if piece])
    assert "".join(pieces) + text.end() == "a\U0001f9d9\u200d\u2642\ufe0f\u00e9 b"
    assert all("\ufffd" not in piece for piece in pieces)


def test_text_of_whole_words_comes_with_every_token(tokenizer: Tokenizer) -> None:
    text = Detokenizer(tokenizer, tokenizer.encode("<|assistant|>\n"))
    assert [text.add(token) for token in tokenizer.encode("The capital of France")] == [
        "The", " capital", " of", " France",
    ]  # fmt: skip
    assert text.end() == ""
