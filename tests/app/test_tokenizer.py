"""The tokenizer, alone and on many threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from app.tokenizer import Tokenizer

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
