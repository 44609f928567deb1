"""Attention with PyTorch's scaled_dot_product_attention, reading the KV cache as views, without a gather."""

import itertools
from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk
from app.engine.kv_cache.slot_allocator import round_up_to_block
from app.engine.kv_cache.storage import KVStorage
from app.engine.model_runner.phi3 import Attention


class EagerAttention:
    """Plans the attention calls of a pass. The bits of a row depend on its own sequence only.

    Args:
        model: in evaluation mode.
        storage: of the KV cache.
    """

    def __init__(self, model: Phi3ForCausalLM, storage: KVStorage) -> None:
        self._device = model.device
        self._storage = storage
        self._num_kv_heads = model.config.num_key_value_heads
        self._queries_per_kv_head = model.config.num_attention_heads // self._num_kv_heads
        self._window = model.config.sliding_window

    def plan(self, chunks: Sequence[ScheduledChunk]) -> tuple[list[int], Attention]:
        """Return the order of the chunks' rows, as indices of `chunks`, and the attention over rows in that order."""
        decode = [index for index, chunk in enumerate(chunks) if chunk.is_decode]
        prefill = [index for index, chunk in enumerate(chunks) if not chunk.is_decode]
        groups = self._strided_groups(chunks, decode)
        calls = [self._decode_attention([chunks[index] for index in group]) for group in groups]
        calls += [self._prefill_attention(chunks[index]) for index in prefill]
        sizes = [*map(len, groups), *(chunks[index].num_tokens for index in prefill)]

        def attention(layer: int, queries: torch.Tensor) -> torch.Tensor:
            parts = torch.split(queries, sizes)
            return torch.cat([attend(layer, part) for attend, part in zip(calls, parts, strict=True)])

        return [*itertools.chain(*groups), *prefill], attention

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
