"""Phi-3's layers over rows of many sequences, with the arithmetic and the weights of transformers' Phi3ForCausalLM."""

from collections.abc import Callable
from typing import cast

import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from app.engine.kv_cache.storage import KVStorage

# Attention of one layer, by its index: maps queries, shape (rows, heads, head_dim), to rows of shape (rows, hidden).
Attention = Callable[[int, torch.Tensor], torch.Tensor]


class Phi3Layers:
    """The decoder layers and the LM head.

    Each row is rotated by its own LongRoPE factors, so other sequences can change its bits only through attention and
    through the GEMM kernels, which depend on the number of rows.

    Args:
        model: in evaluation mode.
        storage: of the KV cache.
    """

    def __init__(self, model: Phi3ForCausalLM, storage: KVStorage) -> None:
        self._body = model.model
        self._head = model.lm_head
        self._storage = storage
        self._eps = model.config.rms_norm_eps
        self._num_heads = model.config.num_attention_heads
        self._num_rotated_heads = self._num_heads + model.config.num_key_value_heads
        self._rotary = _RotaryEmbedding(model)

    def __call__(self, rows: torch.Tensor, attention: Attention) -> torch.Tensor:
        """Write keys and values of all rows into the KV cache.

        Args:
            rows: as `app.engine.batch.pack_rows` returns them, shape (4, rows).
            attention: called for each layer after its keys and values are written.

        Returns:
            hidden states for `logits`, shape (rows, hidden).
        """
        ids, positions, slots, long = rows.unbind(0)
        cos, sin = self._rotary(positions, long)
        x: torch.Tensor = self._body.embed_tokens(ids)
        for index, layer in enumerate(self._body.layers):
            h = self._norm(x, layer.input_layernorm.weight)
            qkv = layer.self_attn.qkv_proj(h).view(len(ids), -1, self._storage.head_dim)
            self._rotary.rotate_(qkv[:, : self._num_rotated_heads], cos, sin)
            self._storage.write(index, slots, qkv[:, self._num_heads :])
            x = x + layer.self_attn.o_proj(attention(index, qkv[:, : self._num_heads]))
            h = self._norm(x, layer.post_attention_layernorm.weight)
            gate, up = layer.mlp.gate_up_proj(h).chunk(2, dim=-1)
            x = x + layer.mlp.down_proj(functional.silu(gate) * up)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of the next token, shape (rows, vocab size)."""
        return cast(torch.Tensor, self._head(self._norm(hidden, self._body.norm.weight)).float())

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._eps)


class _RotaryEmbedding:
    """Rotary position embedding; each row has its own choice of LongRoPE's two sets of factors."""

    def __init__(self, model: Phi3ForCausalLM) -> None:
        embedding = model.model.rotary_emb
        short = embedding.original_inv_freq.float()
        long = short
        if embedding.rope_type == "longrope":
            long_length = model.config.rope_parameters["original_max_position_embeddings"] + 1
            long, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, device=short.device, seq_len=long_length)
        self._frequencies = torch.stack([short, long.to(short.device)])
        self._scaling = embedding.attention_scaling
        self._dtype = model.dtype
        self._half = len(short)
        # Dimensions of a head that partial rotary embedding leaves as they are.
        self._pass_through = model.model.layers[0].self_attn.head_dim - 2 * self._half

    def __call__(self, positions: torch.Tensor, long: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and signed sines for each row, both of shape (rows, 1, head_dim)."""
        angles = positions[:, None].float() * self._frequencies[long]
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        cos = functional.pad(torch.cat([cos, cos], dim=-1), (0, self._pass_through), value=1.0)
        sin = functional.pad(torch.cat([-sin, sin], dim=-1), (0, self._pass_through))
        return cos.to(self._dtype)[:, None], sin.to(self._dtype)[:, None]

    def rotate_(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate `x`, shape (rows, heads, head_dim), in place."""
        first, second, rest = torch.split(x, [self._half, self._half, self._pass_through], dim=-1)
        swapped = torch.cat([second, first, rest], dim=-1)
        x.mul_(cos).addcmul_(swapped, sin)
