"""The model runner for CPUs: PyTorch operators, one pass for each group of rows that has batch-invariant kernels."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk, pack_rows, padding_chunk
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, round_up_to_block
from app.engine.kv_cache.storage import KVStorage
from app.engine.model_runner.packed_linear import RowLimits
from app.engine.model_runner.phi3 import Attention, Phi3Layers

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
        self._num_kv_heads = model.config.num_key_value_heads
        self._queries_per_kv_head = model.config.num_attention_heads // self._num_kv_heads
        self._window = model.config.sliding_window
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
        decode = [index for index, chunk in enumerate(padded) if chunk.is_decode]
        groups = self._strided_groups(padded, decode)
        prefill = [index for index, chunk in enumerate(padded) if not chunk.is_decode]
        order = [*itertools.chain(*groups), *prefill]
        attentions = [self._decode_attention([padded[index] for index in group]) for group in groups]
        attentions += [self._prefill_attention(padded[index]) for index in prefill]
        sizes = [*map(len, groups), *(padded[index].num_tokens for index in prefill)]

        def attention(layer: int, queries: torch.Tensor) -> torch.Tensor:
            parts = torch.split(queries, sizes)
            return torch.cat([attend(layer, part) for attend, part in zip(attentions, parts, strict=True)])

        x = self._layers(pack_rows([padded[index] for index in order]).to(self._device), attention)
        ends = itertools.accumulate(padded[index].num_tokens for index in order)
        last_rows = dict(zip(order, ends, strict=True))
        return [x[last_rows[index] - 1] for index in range(len(chunks))]

    def _strided_groups(self, chunks: Sequence[ScheduledChunk], decode: Sequence[int]) -> list[list[int]]:
        """Group decode tokens whose keys are one strided view: equally many blocks, at equal distances.

        Args:
            chunks: of the pass.
            decode: indices of its decode tokens.
        """

        def num_visible(index: int) -> int:
            return round_up_to_block(chunks[index].num_visible(self._window))

        def start(index: int) -> int:
            return chunks[index].first_visible_slot(self._window)

        groups: list[list[int]] = []
        for index in sorted(decode, key=lambda index: (num_visible(index), start(index))):
            group = groups[-1] if groups else []
            same_size = len({num_visible(each) for each in [*group[-1:], index]}) == 1
            strides = {start(after) - start(before) for before, after in itertools.pairwise([*group[-2:], index])}
            if same_size and len(strides) == 1:
                group.append(index)
            else:
                groups.append([index])
        return groups

    def _decode_attention(self, group: Sequence[ScheduledChunk]) -> Attention:
        """Return the attention of a strided group; its queries have the shape (sequences, heads, head_dim)."""
        # The number of keys selects the kernel, so it is rounded up to whole blocks, alone and in a group.
        size = round_up_to_block(group[0].num_visible(self._window))
        starts = [chunk.first_visible_slot(self._window) for chunk in group]
        stride = starts[1] - starts[0] if len(group) > 1 else 0
        keys_values = self._storage.read(starts[0], size, len(group), stride)
        lengths = torch.tensor([chunk.num_visible(self._window) for chunk in group])
        padding = torch.arange(size) >= lengths[:, None, None, None]
        mask = torch.zeros(padding.shape, dtype=keys_values[0].dtype)
        mask = mask.masked_fill(padding, -torch.inf).to(self._device)

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            keys, values = keys_values[2 * layer : 2 * layer + 2]
            # Heads that share keys are rows of one product, so that no key is repeated.
            rows = queries.view(len(group), self._num_kv_heads, self._queries_per_kv_head, -1)
            return functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).flatten(1)

        return attend

    def _prefill_attention(self, chunk: ScheduledChunk) -> Attention:
        """Return the attention of a prefill chunk; its queries have the shape (tokens, heads, head_dim)."""
        first = chunk.first_visible(self._window)
        keys_values = self._storage.read(chunk.first_visible_slot(self._window), chunk.num_visible(self._window))
        query = torch.arange(chunk.position, chunk.end)[:, None]
        key = torch.arange(first, chunk.end)[None]
        mask = key <= query
        if self._window:
            mask &= key > query - self._window
        mask = mask.to(self._device)

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            # A dimension of stride 0 stands for the heads that share keys.
            shape = (self._num_kv_heads, self._queries_per_kv_head, -1, -1)
            keys, values = (tensor[0, :, None].expand(shape) for tensor in keys_values[2 * layer : 2 * layer + 2])
            rows = queries.view(chunk.num_tokens, self._num_kv_heads, self._queries_per_kv_head, -1)
            out = functional.scaled_dot_product_attention(rows.permute(1, 2, 0, 3), keys, values, attn_mask=mask)
            return out.permute(2, 0, 1, 3).flatten(1)

        return attend


def _batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Divide `items` into lists of at most `size`."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
