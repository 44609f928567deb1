"""A thread-safe tokenizer.

The tokenizers of transformers store truncation, padding and the handling of special tokens as state that each call
sets. Concurrent calls fail ("Already borrowed") or use the settings of another thread. This one is immutable.
"""

import json
import re
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """Convert text to token IDs and back.

    Args:
        fast: fast tokenizer of the checkpoint; it is copied.

    Raises:
        ValueError: the tokenizer cannot decode.
    """

    def __init__(self, fast: "PreTrainedTokenizerBase") -> None:
        # Importing transformers takes seconds, so only the thread that loads the model does it.
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._fast = fast
        self._with_tags = _copy(fast.backend_tokenizer)
        self._without_tags = _copy(fast.backend_tokenizer)
        self._without_tags.encode_special_tokens = True
        vocab = self._with_tags.get_vocab()
        # Tokens of one byte each, for characters without a token. The decoder joins consecutive ones.
        self.byte_ids = frozenset(token_id for token, token_id in vocab.items() if BYTE.fullmatch(token))
        # Byte-level vocabularies only: the letter that stands for each byte in the names of tokens.
        self._letters: dict[str, int] = {}
        decoder = json.loads(self.to_json())["decoder"]
        if decoder is None:
            raise ValueError("tokenizer.json has no decoder, so tokens cannot become text")
        if decoder["type"] == "ByteLevel":
            self._letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        added = self._with_tags.get_added_tokens_decoder()
        self.control_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Return the token IDs of `text`. Tags such as <|end|> become control tokens; no BOS token is added."""
        return list(self._with_tags.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Return the token IDs of `text`. Tags are encoded as plain text."""
        return list(self._without_tags.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of `token_ids` without control tokens."""
        return str(self._with_tags.decode(token_ids, skip_special_tokens=True))

    def to_json(self) -> str:
        """Return the tokenizer in the format of tokenizer.json."""
        return str(self._with_tags.to_str())

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, which may be part of a character; for a control token, the bytes of its name."""
        name = self._with_tags.id_to_token(token_id) or ""
        if token_id in self.byte_ids:
            return bytes([int(name[3:5], 16)])
        if token_id not in self.control_ids and self._letters.keys() >= set(name):
            return bytes(self._letters[letter] for letter in name)
        return name.replace("\u2581", " ").encode()

    def clean_up(self, text: str) -> str:
        """Remove spaces before punctuation and in contractions, which transformers 5 no longer does in `decode`."""
        return str(self._fast.clean_up_tokenization(text))


def _copy(backend: Backend) -> Backend:
    copy = Backend.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
