"""The benchmark of a step."""

from pathlib import Path

from app.engine.kv_cache.manager import kv_cache_for
from app.engine.model_runner.eager import EagerRunner
from app.engine.startup.step_time import benchmark_step
from tests.support.requests import load


def test_step_benchmark_uses_as_many_sequences_as_fit(tiny_model: Path) -> None:
    model = load(tiny_model).model
    cache = kv_cache_for(model, 10)
    assert 0 < benchmark_step(EagerRunner(model, cache.storage), cache, 16) < 10
    assert cache.num_reserved == 0
