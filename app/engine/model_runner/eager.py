"""The model runner for CPUs: PyTorch operators, one pass for each group of rows that has batch-invariant kernels."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk, pack_rows, padding_chunk
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.kv_cache.storage import KVStorage
from app.engine.model_runner.eager_attention import EagerAttention
from app.engine.model_runner.packed_linear import RowLimits
from app.engine.model_runner.phi3 import Phi3Layers

Item = TypeVar("Item")


class EagerRunner:
    """Implements `app.engine.batch.ModelRunner` for chunks of any number.

    Args:
        model: in evaluation mode.
        storage: of the KV cache.
        limits: rows of a pass; None runs all rows in one pass.
    """

    def __init__(self, model: Phi3ForCausalLM, storage: KVStorage, limits: RowLimits | None = None) -> None:
        self._device = model.device
        self._layers = Phi3Layers(model, storage)
        self._storage = storage
        self._attention = EagerAttention(model, storage)
        self._limits = limits

    @torch.inference_mode()
    def __call__(self, chunks: list[ScheduledChunk]) -> torch.Tensor:
        """Run the forward pass; see `app.engine.batch.ModelRunner`."""
        hidden: dict[int, torch.Tensor] = {}
        for indices in self._passes(chunks):
            hidden.update(zip(indices, self._run_pass([chunks[index] for index in indices]), strict=True))
        last = [hidden[index] for index, chunk in enumerate(chunks) if chunk.wants_logits]
        if not last:
            return torch.empty(0)
        max_rows = self._limits.max_decode_rows if self._limits else len(last)
        return torch.cat([self._layers.logits(torch.stack(rows)) for rows in _batched(last, max_rows)])

    def _passes(self, chunks: Sequence[ScheduledChunk]) -> list[list[int]]:
        """Divide chunks, by index, into passes within the row limits; prefill chunks come first."""
        if not self._limits:
            return [list(range(len(chunks)))]
        prefill: list[list[int]] = []
        free_rows = 0
        for index, chunk in enumerate(chunks):
            if not chunk.is_decode:
                if chunk.num_tokens > free_rows:
                    prefill.append([])
                    free_rows = self._limits.max_prefill_rows
                prefill[-1].append(index)
                free_rows -= chunk.num_tokens
        # Decode tokens come last: the end of a prompt can be a chunk of one token.
        decode = [index for index, chunk in enumerate(chunks) if chunk.is_decode]
        return prefill + _batched(decode, self._limits.max_decode_rows)

    def _run_pass(self, chunks: Sequence[ScheduledChunk]) -> list[torch.Tensor]:
        """Run one pass and return the hidden state of each chunk's last token, shape (hidden,)."""
        padded = list(chunks)
        num_rows = sum(chunk.num_tokens for chunk in chunks)
        if self._limits and not chunks[0].is_decode and num_rows % BLOCK_SIZE:
            padded.append(padding_chunk(-num_rows % BLOCK_SIZE, self._storage.padding_slot))
        if self._device.type != "cpu" and num_rows == 1:
            # A single-row GEMM selects a different kernel; a duplicate row keeps the multi-row kernel.
            padded.append(chunks[0])
        order, attention = self._attention.plan(padded)
        x = self._layers(pack_rows([padded[index] for index in order]).to(self._device), attention)
        ends = itertools.accumulate(padded[index].num_tokens for index in order)
        last_rows = dict(zip(order, ends, strict=True))
        return [x[last_rows[index] - 1] for index in range(len(chunks))]


def _batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Divide `items` into lists of at most `size`."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
