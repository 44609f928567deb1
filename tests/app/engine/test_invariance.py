"""The check whether company matters."""

import pytest
import torch

from app.engine.cache import KeyValueCache
from app.engine.decoder import Decoder, Span
from app.engine.invariance import invariant
from app.engine.products import pack
from tests import tiny


@pytest.fixture
def cache() -> KeyValueCache:
    return KeyValueCache(2, 2, 8, 200, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("concurrency", [1, 2, 16, 64])
def test_packed_products_pass(cache: KeyValueCache, concurrency: int) -> None:
    model = tiny.golden()
    pack(model)
    assert invariant(Decoder(model, cache), cache, 48, concurrency)
    assert cache.reserved == 0


@pytest.mark.parametrize("size", [2, 3, 17])
def test_a_pass_that_rounds_otherwise_for_some_number_of_rows_is_found(cache: KeyValueCache, size: int) -> None:
    model = tiny.golden()
    decode = Decoder(model, cache)

    def otherwise(spans: list[Span]) -> torch.Tensor:
        scores = decode(spans)
        return torch.nextafter(scores, scores + 1) if len(spans) == size else scores

    assert not invariant(otherwise, cache, 48, concurrency=16)
