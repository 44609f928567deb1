"""The tokenizer, on one thread and on several."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import AutoTokenizer

from app.tokenizer import Tokenizer
from tests.app.tokenizers import byte_fallback, byte_level

TEXT = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"


def test_token_ids_match_transformers(tokenizer: Tokenizer, demo: Path) -> None:
    reference = AutoTokenizer.from_pretrained(demo)
    assert tokenizer.encode(TEXT) == reference(TEXT, add_special_tokens=False)["input_ids"]
    assert (
        tokenizer.encode_plain(TEXT)
        == reference(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    )


def test_tags_are_control_tokens_or_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|end|>") == [2]
    assert 2 not in tokenizer.encode_plain("<|end|>")
    assert tokenizer.decode(tokenizer.encode("a<|end|>b")) == "ab"
    assert tokenizer.decode(tokenizer.encode_plain("a<|end|>b")) == "a<|end|>b"


def test_decoding_inverts_encoding(tokenizer: Tokenizer) -> None:
    text = "Größe 数学 🙂\u200d🙂 \x00\ttab  spaces ."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_clean_up_removes_spaces_before_punctuation_and_in_contractions(tokenizer: Tokenizer) -> None:
    assert tokenizer.clean_up("It 's me , is n't it ?") == "It's me, isn't it?"


def test_tokenizer_is_thread_safe(tokenizer: Tokenizer) -> None:
    tagged, plain = tokenizer.encode(TEXT), tokenizer.encode_plain(TEXT)
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda n: tokenizer.encode(TEXT) if n % 2 else tokenizer.encode_plain(TEXT), range(4000))
        )
    assert results == [plain, tagged] * 2000


def test_byte_tokens_and_control_tokens_are_identified(demo: Path) -> None:
    assert byte_fallback(demo).byte_ids == set(range(7, 263))
    assert byte_fallback(demo).control_ids == {263}
    assert not byte_level(demo).byte_ids
