"""Turn the token IDs of a sequence into text as they arrive."""

from collections.abc import Sequence

from app.tokenizer import Tokenizer

# Stands for bytes that are not, or not yet, a complete character.
REPLACEMENT = "\ufffd"


class Detokenizer:
    """Incremental decoder of one sequence.

    The concatenated deltas equal the text that the whole sequence decodes to, without the text of the prompt. No delta
    ends within a character.

    Args:
        tokenizer: tokenizer of the model.
        prompt_token_ids: the prompt that the sequence continues.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # The end of the sequence: first the tokens whose text was returned, as context of the others, then the others.
        self._token_ids = list(prompt_token_ids)
        self._num_returned = len(self._token_ids)
        self._returned_text = tokenizer.decode(self._token_ids)
        self._in_bytes = False

    def add(self, token_id: int) -> str:
        """Add a token and return the text that later tokens cannot change; it may be empty."""
        self._token_ids.append(token_id)
        if token_id not in self._tokenizer.control_ids:
            self._in_bytes = token_id in self._tokenizer.byte_ids
        if self._in_bytes:
            return ""
        text = self._tokenizer.decode(self._token_ids)
        return "" if text.endswith(REPLACEMENT) else self._delta(text)

    def flush(self) -> str:
        """Return the remaining text, because no more tokens follow."""
        return self._delta(self._tokenizer.decode(self._token_ids))

    def _delta(self, text: str) -> str:
        delta = text[len(self._returned_text) :]
        if delta:
            del self._token_ids[: self._num_returned]
            self._num_returned = len(self._token_ids)
            self._returned_text = self._tokenizer.decode(self._token_ids)
        return delta
