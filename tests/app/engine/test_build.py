"""The engine put together, with the tiny model."""

from pathlib import Path
from typing import Any

import pytest

from app.engine import build as module
from app.engine.build import Built, build
from app.engine.load import load
from app.settings import Settings
from tests.app.engine.requests import ids, read, request


def built(tiny_model: Path, **settings: Any) -> Built:
    return build(load(tiny_model, "float32", 64), Settings(model=tiny_model, max_context=64, **settings))


def test_it_answers_on_both_lanes_and_tells_what_it_holds(tiny_model: Path) -> None:
    engine = built(tiny_model, max_concurrency=3)
    assert (engine.budget.tokens, engine.budget.context, engine.cache.tokens) == (3 * 64, 64, 3 * 64)
    assert engine.invariant
    for beams in (1, 2):
        assert len(ids(read(engine.engine.submit(request([5, 6, 7], 4, num_beams=beams))))) == 4


@pytest.mark.parametrize("deterministic", [True, False])
def test_where_company_matters_it_is_kept_apart_on_demand(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(module, "invariant", lambda *_: False)
    engine = built(tiny_model, deterministic=deterministic)
    assert engine.invariant == deterministic
    answers = [engine.engine.submit(request([5, 6, number], 4)) for number in range(3)]
    assert len({tuple(ids(read(answer))) for answer in answers}) == 3
