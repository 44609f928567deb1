"""What one step computes: chunks of several sequences, packed into rows without padding between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Consecutive tokens of one sequence. Their predecessors are in the KV cache or earlier in the batch.

    Attributes:
        token_ids: the tokens: one decode token, or a prefill chunk within one block.
        position: position of the first token in the sequence, from 0.
        first_slot: slot of the sequence's first token.
        use_long_factors: whether to rotate by LongRoPE's factors for long sequences.
        wants_logits: whether the logits after the last token are needed.
    """

    token_ids: list[int]
    position: int
    first_slot: int
    use_long_factors: bool
    wants_logits: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of the chunk."""
        return len(self.token_ids)

    @property
    def is_decode(self) -> bool:
        """Whether the chunk is a single token, as a decode token is."""
        return len(self.token_ids) == 1

    @property
    def end(self) -> int:
        """Tokens of the sequence up to the end of the chunk."""
        return self.position + len(self.token_ids)

    def first_visible(self, window: int | None) -> int:
        """Return the first position that any token of the chunk attends to, in a sliding window of `window` tokens."""
        return max(0, self.position + 1 - window) if window else 0

    def num_visible(self, window: int | None) -> int:
        """Return the number of positions from `first_visible` to the end of the chunk."""
        return self.end - self.first_visible(window)

    def first_visible_slot(self, window: int | None) -> int:
        """Return the slot of `first_visible`."""
        return self.first_slot + self.first_visible(window)


class ModelRunner(Protocol):
    """Runs the forward pass over a batch."""

    def __call__(self, chunks: list[ScheduledChunk]) -> torch.Tensor:
        """Write keys and values of all tokens into the KV cache.

        Args:
            chunks: those of one sequence in its order.

        Returns:
            float32 logits after each chunk with `wants_logits`, in order, shape (chunks with logits, vocab size).
            They are valid until the next call.
        """


def pack_rows(chunks: Sequence[ScheduledChunk]) -> torch.Tensor:
    """Return a row for each token: its id, position, slot, and 1 for long factors; shape (4, rows), on the CPU."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    long: list[int] = []
    for chunk in chunks:
        ids += chunk.token_ids
        positions += range(chunk.position, chunk.end)
        slots += range(chunk.first_slot + chunk.position, chunk.first_slot + chunk.end)
        long += [int(chunk.use_long_factors)] * chunk.num_tokens
    return torch.tensor([ids, positions, slots, long])


def padding_chunk(num_tokens: int, padding_slot: int) -> ScheduledChunk:
    """Return a chunk of at most BLOCK_SIZE tokens that belongs to no sequence and fills up a pass."""
    return ScheduledChunk([0] * num_tokens, 0, padding_slot, use_long_factors=False, wants_logits=False)
