"""Structured output: masks the tokens that do not match a grammar, with llguidance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from app.engine.exceptions import InvalidLogitsError


class SchemaError(ValueError):
    """The JSON schema is not supported; the text gives the reason."""


class JsonGrammar:
    """The grammar of a JSON schema; implements `app.engine.sampling_params.Grammar`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fork(self) -> "JsonGrammar":
        """Return a copy in the initial state, for one sequence."""
        return JsonGrammar(self._matcher.deep_copy())

    def mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Set the logits of tokens that do not match to -inf, shape (1, vocab size).

        Raises:
            InvalidLogitsError: the grammar became too complex to match.
        """
        bitmask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise InvalidLogitsError(f"The output can no longer match its grammar: {self._matcher.get_error()}")
        allowed = torch.from_numpy(np.unpackbits(bitmask, bitorder="little")[: logits.shape[-1]]).to(logits.device)
        return logits.masked_fill(allowed[None] == 0, -torch.inf)

    def accept(self, token_id: int) -> None:
        """Advance the match by `token_id`."""
        self._matcher.consume_token(token_id)


class GrammarCompiler:
    """Compiles grammars for one model.

    Args:
        tokenizer: the checkpoint's tokenizer as JSON.
        vocab_size: number of logits.
        eos_token_ids: tokens that end an output.
    """

    def __init__(self, tokenizer: str, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(eos_token_ids))

    def compile_json_schema(self, schema: dict[str, Any]) -> JsonGrammar:
        """Compile the grammar of a JSON document that `schema` allows.

        Raises:
            SchemaError: `schema` is invalid, or has a keyword that the grammar cannot express.
        """
        grammar = LLMatcher.grammar_from_json_schema(
            schema,
            # The white space of json.dumps: with flexible white space a small model can emit spaces without end.
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
            raise SchemaError(f"The JSON schema is not supported: {matcher.get_error()}.")
        return JsonGrammar(matcher)
