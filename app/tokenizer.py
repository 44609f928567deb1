"""The tokenizer, for many threads at once.

transformers' own keeps truncation, padding and how to read tags as state that each call sets anew, so that calls on
several threads fail ("Already borrowed") or read each other's setting. Here nothing changes after the start.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile("<0x[0-9A-F]{2}>")
# What stands for bytes that are no character, or not yet.
REPLACEMENT = "\ufffd"


class Tokenizer:
    """Text to token ids and back.

    Args:
        fast: the checkpoint's fast tokenizer, which is not changed.
    """

    def __init__(self, fast: "PreTrainedTokenizerBase") -> None:
        from transformers.convert_slow_tokenizer import (
            bytes_to_unicode,
        )  # takes seconds, and the model's loading has it

        self._fast = fast
        self._with_tags = _copy(fast.backend_tokenizer)
        self._without_tags = _copy(fast.backend_tokenizer)
        self._without_tags.encode_special_tokens = True
        vocabulary = self._with_tags.get_vocab()
        # Of a character that has no token, one a byte; the decoder reads all that follow each other together.
        self.byte_ids = frozenset(number for token, number in vocabulary.items() if BYTE.fullmatch(token))
        # The letters that stand for bytes in the names of tokens, where all tokens are runs of bytes.
        self._letters: dict[str, int] = {}
        if json.loads(self.to_json())["decoder"]["type"] == "ByteLevel":
            self._letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        added = self._with_tags.get_added_tokens_decoder()
        self.control_ids = frozenset(number for number, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which tags such as <|end|> are control tokens; no BOS is added."""
        return list(self._with_tags.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of `text`, in which tags are text like any other."""
        return list(self._without_tags.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without control tokens."""
        return str(self._with_tags.decode(ids, skip_special_tokens=True))

    def to_json(self) -> str:
        """The tokenizer in the format of tokenizer.json."""
        return str(self._with_tags.to_str())

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, which may be a part of a character; of a control token its name's."""
        name = self._with_tags.id_to_token(token) or ""
        if token in self.byte_ids:
            return bytes([int(name[3:5], 16)])
        if token not in self.control_ids and self._letters.keys() >= set(name):
            return bytes(self._letters[letter] for letter in name)
        return name.replace("\u2581", " ").encode()

    def clean_up(self, text: str) -> str:
        """Take out spaces before punctuation and in contractions; `decode` of transformers 5 no longer does."""
        return str(self._fast.clean_up_tokenization(text))


class Detokenizer:
    """Turns a sequence's token ids into text as they come.

    The pieces together are what decoding the whole adds to the decoded prompt, and none shows half a character.

    Args:
        tokenizer: of the model.
        prompt_ids: what the sequence continues.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # The end of the sequence: tokens whose text is out already, as what the rest is decoded after, and the rest.
        self._ids = list(prompt_ids)
        self._out = len(self._ids)
        self._text_out = tokenizer.decode(self._ids)
        self._in_bytes = False

    def add(self, token: int) -> str:
        """Take one more token, and return the text that is certain by now; it may be empty."""
        self._ids.append(token)
        if token not in self._tokenizer.control_ids:
            self._in_bytes = token in self._tokenizer.byte_ids
        if self._in_bytes:
            return ""
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(REPLACEMENT) else self._put_out(text)

    def end(self) -> str:
        """Return the rest of the text."""
        return self._put_out(self._tokenizer.decode(self._ids))

    def _put_out(self, text: str) -> str:
        piece = text[len(self._text_out) :]
        if piece:
            del self._ids[: self._out]
            self._out = len(self._ids)
            self._text_out = self._tokenizer.decode(self._ids)
        return piece


def _copy(backend: Backend) -> Backend:
    copy = Backend.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
