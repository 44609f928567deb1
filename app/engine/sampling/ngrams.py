"""Bans repeated n-grams incrementally; transformers' processor scans the whole sequence at every step."""

from collections import defaultdict
from collections.abc import Iterable

import torch


class NgramBan:
    """Bans tokens that would repeat an n-gram of the sequence (`no_repeat_ngram_size`).

    Args:
        size: tokens of an n-gram, 1 or more.
        token_ids: the sequence so far.
    """

    def __init__(self, size: int, token_ids: Iterable[int]) -> None:
        self._size = size
        self._followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self._prefix: list[int] = []  # the last size - 1 tokens
        for token_id in token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Extend the sequence by `token_id`."""
        if len(self._prefix) == self._size - 1:
            self._followers[tuple(self._prefix)].append(token_id)
        if self._size > 1:
            self._prefix = [*self._prefix, token_id][1 - self._size :]

    def mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Set the logits of banned tokens to -inf, shape (1, vocab size)."""
        banned = self._followers.get(tuple(self._prefix)) if len(self._prefix) == self._size - 1 else None
        if banned:
            logits = logits.clone()
            logits[:, banned] = -torch.inf
        return logits
