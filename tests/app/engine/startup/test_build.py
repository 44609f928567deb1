"""Building the engine, with the tiny model."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from app.engine.batch import ModelRunner, ScheduledChunk
from app.engine.config import EngineConfig
from app.engine.kv_cache.manager import kv_cache_for
from app.engine.model_runner.cuda_graphs import CudaGraphRunner
from app.engine.model_runner.eager import EagerRunner
from app.engine.startup import build as module
from app.engine.startup.batch_invariance import Probe
from app.engine.startup.build import EngineComponents, build_engine, choose_runner
from app.engine.startup.load import load_model
from tests.support.engine import MAX_PREFILL_TOKENS, build_model, varlen_attention
from tests.support.requests import beams, read, request, token_ids


def built(tiny_model: Path, max_context: int = 64, **settings: Any) -> EngineComponents:
    config = EngineConfig(model=tiny_model, dtype="float32", max_context=max_context, **settings)
    return build_engine(load_model(config), config)


def test_engine_generates_on_both_workers_and_reports_its_memory(tiny_model: Path) -> None:
    engine = built(tiny_model, max_concurrency=3)
    assert (engine.memory.num_slots, engine.memory.context, engine.cache.num_slots) == (3 * 64, 64, 3 * 64)
    assert engine.batch_invariant
    for beam_search in (None, beams(2)):
        stream = engine.engine.submit(request([5, 6, 7], 4, beam_search=beam_search))
        assert len(token_ids(read(stream))) == 4


@pytest.mark.parametrize(("context", "concurrency"), [(2, 1), (3, 1), (8, 1), (9, 1), (2, 3)])
def test_smallest_kv_cache_serves_a_full_context(tiny_model: Path, context: int, concurrency: int) -> None:
    engine = built(tiny_model, max_concurrency=concurrency, max_context=context)
    assert len(token_ids(read(engine.engine.submit(request([5], context - 1))))) == context - 1


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_mode_isolates_sequences(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(Probe, "is_batch_invariant", lambda *_: False)
    engine = built(tiny_model, deterministic=deterministic)
    assert engine.batch_invariant == deterministic
    answers = [engine.engine.submit(request([5, 6, number], 4)) for number in range(3)]
    assert len({tuple(token_ids(read(answer))) for answer in answers}) == 3


def wrong(chunks: list[ScheduledChunk]) -> torch.Tensor:
    return torch.full((len([chunk for chunk in chunks if chunk.wants_logits]), 97), torch.nan)


def unable(*_: object) -> ModelRunner:
    raise RuntimeError("no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("made", "said"),
    [(unable, "this GPU cannot run CUDA graphs"), (lambda *_: wrong, "CUDA graphs give wrong logits")],
    ids=["raises", "is wrong"],
)
def test_gpu_without_working_cuda_graphs_uses_the_eager_runner(
    monkeypatch: pytest.MonkeyPatch, made: Callable[..., ModelRunner], said: str
) -> None:
    library = build_model({})
    monkeypatch.setattr(module, "supports_cuda_graphs", lambda _: True)
    monkeypatch.setattr(module, "CudaGraphRunner", made)
    with structlog.testing.capture_logs() as logs:
        assert isinstance(choose_runner(library, kv_cache_for(library, 1000), 4, MAX_PREFILL_TOKENS), EagerRunner)
    assert [line["event"].startswith(said) for line in logs] == [True]


def test_gpu_with_working_cuda_graphs_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    library = build_model({})
    monkeypatch.setattr(module, "supports_cuda_graphs", lambda _: True)
    monkeypatch.setattr(module, "CudaGraphRunner", functools.partial(CudaGraphRunner, kernel=varlen_attention))
    assert isinstance(choose_runner(library, kv_cache_for(library, 1000), 4, MAX_PREFILL_TOKENS), CudaGraphRunner)
