"""The tokenizer, for many threads at once.

transformers' own keeps truncation, padding and how to read tags as state that each call sets anew, so that calls on
several threads fail ("Already borrowed") or read each other's setting. Here nothing changes after the start.
"""

from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenizer:
    """Text to token ids and back.

    Args:
        fast: the checkpoint's fast tokenizer, which is not changed.
    """

    def __init__(self, fast: "PreTrainedTokenizerBase") -> None:
        self._fast = fast
        self._with_tags = _copy(fast.backend_tokenizer)
        self._without_tags = _copy(fast.backend_tokenizer)
        self._without_tags.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which tags such as <|end|> are control tokens; no BOS is added."""
        return list(self._with_tags.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of `text`, in which tags are text like any other."""
        return list(self._without_tags.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without control tokens."""
        return str(self._with_tags.decode(ids, skip_special_tokens=True))

    def clean_up(self, text: str) -> str:
        """Take out spaces before punctuation and in contractions; `decode` of transformers 5 no longer does."""
        return str(self._fast.clean_up_tokenization(text))


def _copy(backend: Backend) -> Backend:
    copy = Backend.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
