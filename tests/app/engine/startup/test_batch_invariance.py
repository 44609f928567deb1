"""The check whether company matters."""

from pathlib import Path

import pytest
import torch
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import KeyValueCache, cache_for
from app.engine.model_runner.eager import Decoder, Span
from app.engine.model_runner.packed_linear import division, pack
from app.engine.scheduler import PROMPT_TOKENS
from app.engine.startup.batch_invariance import invariant
from app.engine.startup.load import load
from tests.support import tiny


@pytest.fixture
def model() -> Phi3ForCausalLM:
    model = tiny.golden()
    pack(model)
    return model


@pytest.fixture
def cache(model: Phi3ForCausalLM) -> KeyValueCache:
    return cache_for(model, 10_000)


@pytest.mark.parametrize("concurrency", [1, 2, 16, 64])
def test_packed_products_pass(model: Phi3ForCausalLM, cache: KeyValueCache, concurrency: int) -> None:
    assert invariant(Decoder(model, cache), cache, 48, concurrency)
    assert cache.reserved == 0


@pytest.mark.parametrize("size", [2, 3, 16])
def test_a_pass_that_rounds_otherwise_for_some_number_of_rows_is_found(
    model: Phi3ForCausalLM, cache: KeyValueCache, size: int
) -> None:
    decode = Decoder(model, cache)

    def otherwise(spans: list[Span]) -> torch.Tensor:
        scores = decode(spans)
        return torch.nextafter(scores, scores + 1) if len(spans) == size else scores

    assert not invariant(otherwise, cache, 48, concurrency=16)


def test_on_this_machine_the_division_of_rows_is_needed_where_it_is_made_and_enough(demo: Path) -> None:
    model = load(demo, "bfloat16", 512).model
    divided = division(model, pack(model), 16, PROMPT_TOKENS + 16)
    cache = cache_for(model, 2000)
    assert invariant(Decoder(model, cache, divided), cache, model.config.vocab_size, 16)
    assert invariant(Decoder(model, cache), cache, model.config.vocab_size, 16) == (divided is None)
