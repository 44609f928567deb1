"""Answers of a given form: at each step only tokens that can go on with it are left to choose from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from app.engine.request import InvalidScoresError


class SchemaError(ValueError):
    """A JSON schema cannot be served; the text says why."""


class GrammarForm:
    """A form that a grammar describes; see `app.engine.request.Form`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def begin(self) -> "GrammarForm":
        """The same form at its beginning, for one sequence."""
        return GrammarForm(self._matcher.deep_copy())

    def exclude(self, scores: torch.Tensor) -> torch.Tensor:
        """Exclude tokens that do not go on with the form, from scores of shape (1, vocabulary).

        Raises:
            InvalidScoresError: the form became too complex to follow.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise InvalidScoresError(f"The answer cannot follow its form any more: {self._matcher.get_error()}")
        allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: scores.shape[-1]]).to(scores.device)
        return scores.masked_fill(allowed[None] == 0, -torch.inf)

    def append(self, token: int) -> None:
        """Go on with `token`."""
        self._matcher.consume_token(token)


class Grammars:
    """Makes forms for one model.

    Args:
        tokenizer: the checkpoint's, as JSON.
        vocabulary: token ids that the model scores.
        eos_token_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer: str, vocabulary: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(eos_token_ids))

    def json(self, schema: dict[str, Any]) -> GrammarForm:
        """The form of a JSON document that `schema` allows.

        Raises:
            SchemaError: it is no schema, or has a part that cannot be held to.
        """
        grammar = LLMatcher.grammar_from_json_schema(
            schema,
            # As json.dumps writes it: with free white space a small model can go on with that for ever.
            overrides={
                "whitespace_flexible": False,
                "whitespace_pattern": None,
                "item_separator": ", ",
                "key_separator": ": ",
                "lenient": False,
            },
        )
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise SchemaError(f"The JSON schema cannot be served: {matcher.get_error()}.")
        return GrammarForm(matcher)
