"""Limits that a model and its operator set for each request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and token IDs that requests are checked against.

    Attributes:
        model_name: the only model name that a request may give.
        context: maximum tokens of a prompt and its completion.
        vocab_size: number of token IDs of the model.
        eos_token_ids: end-of-sequence tokens of the model.
        pad_token_id: padding token of the model.
        max_beam_tokens: maximum beams times tokens of one request.
        max_sequences: maximum beams, or returned sequences, of one request.
        max_scored_tokens: maximum sequences times new tokens of one request with output_scores.
        max_list: maximum token IDs in one list of a request.
        max_messages: maximum messages in one request.
        max_request_seconds: maximum seconds of one request, queueing included.
    """

    model_name: str
    context: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_beam_tokens: int
    max_sequences: int
    max_scored_tokens: int
    max_list: int
    max_messages: int
    max_request_seconds: float
