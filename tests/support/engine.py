"""Small models and model runners for the tests of the engine."""

import itertools
import math
from typing import Any

import torch
from transformers import Phi3ForCausalLM

from app.engine.batch import ModelRunner
from app.engine.kv_cache.manager import KVCacheManager
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.loop import BatchWorker
from app.engine.model_runner.cuda_graphs import CudaGraphRunner
from app.engine.scheduler import Scheduler, SchedulerConfig
from tests.support import tiny

MAX_PREFILL_TOKENS = 256
LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": 32,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 12.0]},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sliding window": {"sliding_window": 7},
    "grouped": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "ungrouped": {"num_key_value_heads": 4},
    "longrope": LONGROPE,
}


def build_model(config: dict[str, Any]) -> Phi3ForCausalLM:
    """Return a model with a vocabulary of 97 tokens."""
    sizes = {"max_position_embeddings": 256, "original_max_position_embeddings": 256}
    return tiny.build(vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=None, **sizes | config)


def expected_logits(model: Phi3ForCausalLM, token_ids: list[int]) -> torch.Tensor:
    """Return transformers' logits after `token_ids`, shape (vocab size,)."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0, -1]
    return logits


def start_worker(
    model: Phi3ForCausalLM, runner: ModelRunner, cache: KVCacheManager, max_concurrency: int, **config: Any
) -> BatchWorker:
    """Start a batch worker."""
    return BatchWorker(Scheduler(model, cache, SchedulerConfig(max_concurrency, MAX_PREFILL_TOKENS, **config)), runner)


def cuda_graph_runner(model: Phi3ForCausalLM, cache: KVCacheManager, max_concurrency: int) -> CudaGraphRunner:
    """Return the GPU's runner on the CPU, with `varlen_attention` in place of the GPU kernel."""
    return CudaGraphRunner(model, cache.storage, max_concurrency, MAX_PREFILL_TOKENS, varlen_attention)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """Compute torch.nn.attention.varlen.varlen_attn, and assert what its documentation and FlashAttention 2 require.

    The keys of a sequence begin at its cu_seq_k and end after seqused_k of them; the last query sees the last key.
    """
    for each in (cu_seq_q, cu_seq_k, seqused_k):
        assert each.dtype == torch.int32
        assert each.is_contiguous()
    sequences = len(cu_seq_q) - 1
    assert (len(cu_seq_k), len(seqused_k)) == (sequences + 1, sequences)
    assert all(each.stride(-1) == 1 for each in (query, key, value))
    assert key.shape == value.shape
    assert query.shape[2] == key.shape[2]
    assert enable_gqa
    assert num_splits == 1  # otherwise the order of sums depends on the longest sequence
    left, right = window_size
    groups = query.shape[1] // key.shape[1]
    out = torch.full_like(query, torch.nan)
    for (first, end), start, used in zip(
        itertools.pairwise(cu_seq_q.tolist()), cu_seq_k[:-1].tolist(), seqused_k.tolist(), strict=True
    ):
        length = end - first
        assert 0 <= length <= max_q
        assert used <= max_k + BLOCK_SIZE
        assert 0 <= start <= start + used <= len(key)
        keys, values = (each[start : start + used].repeat_interleave(groups, 1) for each in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[first:end], keys) / math.sqrt(query.shape[2])
        at = torch.arange(length)[:, None] + used - length
        to = torch.arange(used)[None]
        visible = (left < 0) | (to >= at - left)
        visible &= torch.tensor(right < 0) | (to <= at + right)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0)
        out[first:end] = torch.einsum("hqk,khd->qhd", weights, values)
    return out
