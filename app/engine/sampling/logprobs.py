"""Logprobs of a step, and the check that logits leave a token to sample."""

import torch

from app.engine.exceptions import InvalidLogitsError
from app.engine.stream import TokenLogprobs


def check_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return `logits`, shape (rows, vocab size), if every row leaves a token to sample.

    Raises:
        InvalidLogitsError: a logit is nan or +inf, or a row is -inf throughout. Sampling from such a row on a GPU
            ends the process.
    """
    best = logits.amax(-1)  # nan if any logit is nan
    if not bool(torch.isfinite(best).all()):
        raise invalid_logits_error()
    return logits


def invalid_logits_error() -> InvalidLogitsError:
    """Return the error for a row that leaves no token to sample."""
    return InvalidLogitsError(
        "The sampling parameters made the logits nan or infinite, so no token can be sampled: "
        "use less extreme values, exclude fewer tokens, or set remove_invalid_values."
    )


def token_logprobs(logits: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Return the logprobs of `token_id` and of the `num_top` most likely tokens.

    Args:
        logits: shape (vocab size,).
        token_id: the sampled token.
        num_top: tokens with a logprob of -inf are left out, so there can be fewer.
    """
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(min(num_top, len(logprobs)))
    return TokenLogprobs(
        logprob=float(logprobs[token_id]),
        top=tuple(
            (index, value)
            for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            if value > -torch.inf
        ),
    )
