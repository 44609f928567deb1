"""The tensor that holds keys and values.

A sequence has consecutive slots, reserved for its maximum length, instead of pages and a block table. Attention on a
CPU then reads views of the tensor without a gather, the keys of several sequences are one strided tensor, and a
running request never runs out of memory. The price: slots are reserved that a short output leaves unused, free slots
can be fragmented, and a cached prefix is copied instead of shared.
"""

from dataclasses import dataclass

import torch
from transformers import Phi3ForCausalLM

from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, round_up_to_block


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheShape:
    """Shape of a KV cache.

    Attributes:
        num_layers: layers of the model.
        num_kv_heads: heads of keys and values.
        head_dim: dimensions of one head.
        num_slots: capacity in tokens, rounded up to whole blocks.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    num_slots: int

    @classmethod
    def of(cls, model: Phi3ForCausalLM, num_slots: int) -> "KVCacheShape":
        """Return the shape for `model`."""
        return cls(
            num_layers=model.config.num_hidden_layers,
            num_kv_heads=model.config.num_key_value_heads,
            head_dim=model.model.layers[0].self_attn.head_dim,
            num_slots=num_slots,
        )


class KVStorage:
    """Keys and values of all slots. The memory is allocated and touched at once.

    Args:
        shape: of the cache.
        dtype: of keys and values.
        device: of the tensor.
    """

    def __init__(self, shape: KVCacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.num_slots = round_up_to_block(shape.num_slots)
        self.head_dim = shape.head_dim
        # First of BLOCK_SIZE slots that belong to no sequence, for padding rows.
        self.padding_slot = self.num_slots
        # zero_ instead of zeros: a CPU allocates the pages of zeros lazily.
        size = (2 * shape.num_layers, 1, shape.num_kv_heads, self.num_slots + BLOCK_SIZE, shape.head_dim)
        self._pool = torch.empty(size, dtype=dtype, device=device).zero_()
        self._layers = self._pool.view(shape.num_layers, 2, *size[1:]).unbind(0)  # keys, then values

    def write(self, layer: int, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """Write rows into a layer.

        Args:
            layer: its index.
            slots: one for each row, shape (rows,).
            keys_values: keys, then values, shape (rows, 2 * num_kv_heads, head_dim).
        """
        rows = keys_values.view(len(slots), 2, 1, -1, self.head_dim)
        self._layers[layer].index_copy_(3, slots, rows.permute(1, 2, 3, 0, 4))

    def layer(self, layer: int) -> tuple[torch.Tensor, ...]:
        """Return views of a layer's keys and values, each of shape (slots, num_kv_heads, head_dim)."""
        return self._layers[layer][:, 0].transpose(1, 2).unbind(0)

    def read(self, start: int, size: int, count: int = 1, stride: int = 0) -> tuple[torch.Tensor, ...]:
        """Return views of `count` ranges of `size` slots that begin at `start`, `start` + `stride`, …

        Three sequences that begin at slots 0, 128 and 256 and have 64 keys each are one view, without a copy:

            slot    0        64       128      192      256      320
                    [seq 0  ]         [seq 1  ]         [seq 2  ]
            read(start=0, size=64, count=3, stride=128) -> shape (3, heads, 64, head_dim)

        Returns:
            for each layer its keys, then its values, each of shape (count, num_kv_heads, size, head_dim).
        """
        first = self._pool[:, :, :, start : start + size]
        tensor_stride, _, head_stride, slot_stride, dim_stride = first.stride()
        shape = (len(first), count, *first.shape[2:])
        strides = (tensor_stride, stride * slot_stride, head_stride, slot_stride, dim_stride)
        return first.as_strided(shape, strides).unbind(0)

    def copy_block(self, source: int, target: int) -> None:
        """Copy the block that begins at slot `source` to slot `target`, in all layers."""
        self._pool[:, :, :, target : target + BLOCK_SIZE] = self._pool[:, :, :, source : source + BLOCK_SIZE]
