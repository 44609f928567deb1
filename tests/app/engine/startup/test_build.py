"""The engine put together, with the tiny model."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from app.engine.kv_cache import cache_for
from app.engine.model_runner.cuda_graphs import FixedDecoder
from app.engine.model_runner.eager import Decoder, Span
from app.engine.scheduler import Decode
from app.engine.startup import build as module
from app.engine.startup.build import Built, build, decoder
from app.engine.startup.load import load
from app.settings import Settings
from tests.app.engine.model_runner.test_cuda_graphs import attention
from tests.app.engine.model_runner.test_eager import model
from tests.support.requests import ids, read, request


def built(tiny_model: Path, max_context: int = 64, **settings: Any) -> Built:
    wanted = Settings(model=tiny_model, max_context=max_context, **settings)
    return build(load(tiny_model, "float32", max_context), wanted)


def test_it_answers_on_both_lanes_and_tells_what_it_holds(tiny_model: Path) -> None:
    engine = built(tiny_model, max_concurrency=3)
    assert (engine.budget.tokens, engine.budget.context, engine.cache.tokens) == (3 * 64, 64, 3 * 64)
    assert engine.invariant
    for beams in (1, 2):
        assert len(ids(read(engine.engine.submit(request([5, 6, 7], 4, num_beams=beams))))) == 4


@pytest.mark.parametrize(("context", "concurrency"), [(2, 1), (3, 1), (8, 1), (9, 1), (2, 3)])
def test_the_least_cache_is_enough(tiny_model: Path, context: int, concurrency: int) -> None:
    engine = built(tiny_model, max_concurrency=concurrency, max_context=context)
    assert len(ids(read(engine.engine.submit(request([5], context - 1))))) == context - 1


@pytest.mark.parametrize("deterministic", [True, False])
def test_where_company_matters_it_is_kept_apart_on_demand(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(module, "invariant", lambda *_: False)
    engine = built(tiny_model, deterministic=deterministic)
    assert engine.invariant == deterministic
    answers = [engine.engine.submit(request([5, 6, number], 4)) for number in range(3)]
    assert len({tuple(ids(read(answer))) for answer in answers}) == 3


def wrong(spans: list[Span]) -> torch.Tensor:
    return torch.full((len([span for span in spans if span.scored]), 97), torch.nan)


def unable(*_: object) -> Decode:
    raise RuntimeError("no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("made", "said"),
    [(unable, "this GPU cannot run passes of fixed shapes"), (lambda *_: wrong, "passes of fixed shapes are wrong")],
    ids=["raises", "is wrong"],
)
def test_a_gpu_that_cannot_compute_in_fixed_passes_gets_the_plain_decoder(
    monkeypatch: pytest.MonkeyPatch, made: Callable[..., Decode], said: str
) -> None:
    library = model({})
    monkeypatch.setattr(module, "supported", lambda _: True)
    monkeypatch.setattr(module, "FixedDecoder", made)
    with structlog.testing.capture_logs() as logs:
        assert isinstance(decoder(library, cache_for(library, 1000), 4), Decoder)
    assert [line["event"].startswith(said) for line in logs] == [True]


def test_a_gpu_that_computes_in_fixed_passes_does(monkeypatch: pytest.MonkeyPatch) -> None:
    library = model({})
    monkeypatch.setattr(module, "supported", lambda _: True)
    monkeypatch.setattr(module, "FixedDecoder", functools.partial(FixedDecoder, attention=attention))
    assert isinstance(decoder(library, cache_for(library, 1000), 4), FixedDecoder)
