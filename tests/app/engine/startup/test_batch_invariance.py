"""The probe for batch invariance."""

from pathlib import Path

import pytest
import torch
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk
from app.engine.kv_cache.manager import KVCacheManager, kv_cache_for
from app.engine.model_runner.eager import EagerRunner
from app.engine.model_runner.packed_linear import find_row_limits, pack
from app.engine.startup.batch_invariance import Probe
from tests.support import tiny
from tests.support.engine import MAX_PREFILL_TOKENS
from tests.support.requests import load


@pytest.fixture
def model() -> Phi3ForCausalLM:
    model = tiny.golden()
    pack(model)
    return model


@pytest.fixture
def cache(model: Phi3ForCausalLM) -> KVCacheManager:
    return kv_cache_for(model, 10_000)


@pytest.mark.parametrize("concurrency", [1, 2, 16, 64])
def test_packed_linear_layers_are_batch_invariant(
    model: Phi3ForCausalLM, cache: KVCacheManager, concurrency: int
) -> None:
    assert Probe(cache, 48).is_batch_invariant(EagerRunner(model, cache.storage), concurrency, MAX_PREFILL_TOKENS)
    assert cache.num_reserved == 0


@pytest.mark.parametrize("size", [2, 3, 16])
def test_probe_detects_a_batch_size_that_rounds_differently(
    model: Phi3ForCausalLM, cache: KVCacheManager, size: int
) -> None:
    run = EagerRunner(model, cache.storage)

    def otherwise(chunks: list[ScheduledChunk]) -> torch.Tensor:
        logits = run(chunks)
        return torch.nextafter(logits, logits + 1) if len(chunks) == size else logits

    assert not Probe(cache, 48).is_batch_invariant(otherwise, 16, MAX_PREFILL_TOKENS)


def test_row_limits_of_this_machine_are_necessary_and_sufficient(demo: Path) -> None:
    model = load(demo, "bfloat16", 512).model
    limits = find_row_limits(model, pack(model), 16, MAX_PREFILL_TOKENS + 16)
    cache = kv_cache_for(model, 2000)
    probe = Probe(cache, model.config.vocab_size)
    assert probe.is_batch_invariant(EagerRunner(model, cache.storage, limits), 16, MAX_PREFILL_TOKENS)
    unlimited = EagerRunner(model, cache.storage)
    assert probe.is_batch_invariant(unlimited, 16, MAX_PREFILL_TOKENS) == (limits is None)
