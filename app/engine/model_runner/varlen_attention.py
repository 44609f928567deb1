"""Attention on a GPU: FlashAttention over ranges of slots, through torch's varlen_attn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from app.engine.kv_cache.storage import KVStorage

# The signature of `torch.nn.attention.varlen.varlen_attn`.
VarlenKernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class VarlenAttention:
    """Attention over ranges of slots, with the same number of splits for every length."""

    storage: KVStorage
    window: int | None
    kernel: VarlenKernel

    def __call__(self, layer: int, queries: torch.Tensor, bounds: torch.Tensor, max_chunk: int) -> torch.Tensor:
        """Return the attention of all rows, shape (rows, hidden).

        Args:
            layer: its index.
            queries: shape (rows, heads, head_dim).
            bounds: for each chunk its first row, its first visible slot and its number of visible slots, with an end
                behind the last one; shape (3, chunks + 1).
            max_chunk: maximum tokens of a chunk.
        """
        keys, values = self.storage.layer(layer)
        first_rows, first_slots, num_visible = bounds.unbind(0)
        # A decode token sees all its visible keys; the window has cut them already.
        window_size = (-1, -1) if max_chunk == 1 else (self.window - 1 if self.window else -1, 0)
        attended: torch.Tensor = self.kernel(
            queries,
            keys,
            values,
            first_rows,
            first_slots,  # the kernel reads lengths from seqused_k, so ranges of keys need not be adjacent
            max_chunk,
            self.storage.num_slots,
            window_size=window_size,
            enable_gqa=True,
            seqused_k=num_visible[:-1],
            num_splits=1,
        )
        return attended.flatten(1)
