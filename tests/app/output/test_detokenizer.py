"""Incremental decoding of a sequence."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.output.detokenizer import Detokenizer
from app.tokenizer import Tokenizer
from tests.app.tokenizers import byte_fallback, byte_level

# Token IDs that can form the characters "é", "€" and an emoji, and others.
IDS = {
    byte_level: [0, 2, 28, 253, 260, 339, *range(100, 130), 30000, 45000],
    byte_fallback: [*range(7), *(7 + byte for byte in "\u00e9\u20ac\U0001f642 a\n".encode()), 7 + 0xFF, 263],
}


@pytest.mark.parametrize(("kind", "ids"), IDS.items(), ids=["byte_level", "byte_fallback"])
@settings(deadline=None)  # the first example loads the tokenizer
@given(data=st.data())
def test_concatenated_deltas_equal_the_decoded_sequence(
    demo: Path, kind: Callable[[Path], Tokenizer], ids: list[int], data: st.DataObject
) -> None:
    tokenizer = kind(demo)
    some = st.lists(st.sampled_from(ids), max_size=40)
    prompt, completion = tokenizer.encode("a") + data.draw(some), data.draw(some)
    detokenizer = Detokenizer(tokenizer, prompt)
    deltas = [detokenizer.add(token_id) for token_id in completion]
    assert not any(delta.endswith("\ufffd") for delta in deltas)
    text = tokenizer.decode(prompt + completion)[len(tokenizer.decode(prompt)) :]
    assert "".join(deltas) + detokenizer.flush() == text


def test_delta_never_ends_within_a_character(tokenizer: Tokenizer) -> None:
    completion = tokenizer.encode("a\U0001f9d9\u200d\u2642\ufe0f\u00e9 b")
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("x"))
    deltas = [detokenizer.add(token_id) for token_id in completion]
    assert len(completion) > len([delta for delta in deltas if delta])
    assert "".join(deltas) + detokenizer.flush() == "a\U0001f9d9\u200d\u2642\ufe0f\u00e9 b"
    assert all("\ufffd" not in delta for delta in deltas)


def test_complete_words_are_returned_with_every_token(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("<|assistant|>\n"))
    assert [detokenizer.add(token_id) for token_id in tokenizer.encode("The capital of France")] == [
        "The", " capital", " of", " France",
    ]  # fmt: skip
    assert detokenizer.flush() == ""
