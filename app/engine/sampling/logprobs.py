"""Scores of a step: guarded against nan, and recorded as log probabilities."""

import torch

from app.engine.request import InvalidScoresError, TokenScores

# Of output_scores.
TOP = 10


def check_scores(scores: torch.Tensor) -> torch.Tensor:
    """Return `scores`, shape (rows, vocabulary), if a token can be chosen from every row.

    Raises:
        InvalidScoresError: a score is nan or +inf, or a row is -inf throughout. On a GPU, drawing from such a row
            would end the process.
    """
    best = scores.amax(-1)  # nan where any is nan
    if not bool(torch.isfinite(best).all()):
        raise InvalidScoresError(
            "generate_kwargs made the scores of the tokens nan or infinite, so that none can be chosen: "
            "use less extreme values, exclude fewer tokens, or set remove_invalid_values."
        )
    return scores


def token_scores(scores: torch.Tensor, token: int, most: int = TOP) -> TokenScores:
    """Log probabilities of `token` and of the `most` likeliest ones, from one row of scores, shape (vocabulary,)."""
    log_probs = scores.float().log_softmax(-1)
    top = log_probs.topk(min(most, len(log_probs)))
    return TokenScores(
        logprob=float(log_probs[token]),
        top=tuple(
            (index, value)
            for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            if value > -torch.inf
        ),
    )
