"""When a refused request would find a place."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.engine.kv_cache import cache_for
from app.engine.model_runner.eager import Decoder
from app.engine.request import Generation
from app.engine.retry_after import GRACE_SECONDS, PROMISES, Forecast, seconds_per_step
from app.engine.startup.load import load
from tests.support.requests import request

STEP = 10.0


@pytest.fixture
def forecast() -> Forecast:
    return Forecast(concurrency=4, cache_tokens=10_000, seconds_per_step=STEP)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stops the clock, and then sets it to so many seconds after."""
    stopped = time.monotonic()

    def after(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: stopped + seconds)

    after(0)
    return after


def let_in(tokens: int, done: int = 0, lane: str = "batched", prompt: int = 1, **kwargs: Any) -> Generation:
    """A request for so many tokens, of which some are there."""
    answer = Generation(request([1] * prompt, tokens, **kwargs), lane, on_end=lambda _: None)
    answer.tokens = done
    return answer


def promises(forecast: Forecast, running: list[Generation], count: int) -> list[Any]:
    """What so many refused requests are told, one after another."""
    return [pytest.approx(forecast.promise(running), rel=0.05) for _ in range(count)]


def test_each_refused_request_is_told_of_a_place_of_its_own(forecast: Forecast) -> None:
    running = [let_in(10), let_in(20), let_in(30), let_in(40)]
    # Those that come back take the place of those that have ended, with the average of the work: 250 seconds.
    assert promises(forecast, running, 6) == [100, 200, 300, 350, 400, 450]


def test_those_that_wait_come_first(forecast: Forecast) -> None:
    assert promises(forecast, [let_in(10) for _ in range(8)], 9) == [100] * 4 + [200] * 4 + [300]


def test_what_has_been_generated_needs_no_more_time(forecast: Forecast) -> None:
    assert promises(forecast, [let_in(100, done=90)], 1) == [100]


def test_a_promise_that_is_due_is_given_no_more(forecast: Forecast, clock: Callable[[float], None]) -> None:
    running = [let_in(10) for _ in range(4)]
    assert promises(forecast, running, 5) == [100, 100, 100, 100, 200]
    clock(105 + GRACE_SECONDS)
    assert promises(forecast, running, 4) == [100, 100, 100, 200]


def test_those_that_come_when_they_were_told_to_are_promised_the_next_places(
    forecast: Forecast, clock: Callable[[float], None]
) -> None:
    running = [let_in(10) for _ in range(4)]
    assert promises(forecast, running, 6) == [100] * 4 + [200] * 2
    # Half of the work has been done when all of it should have been.
    late = [let_in(10, done=5) for _ in range(4)]
    clock(101)
    assert promises(forecast, late, 4) == [50] * 4
    # Another that comes now is none of them.
    assert promises(forecast, late, 1) == [150]


def test_one_that_finds_its_place_leaves_the_next_to_those_behind_it(
    forecast: Forecast, clock: Callable[[float], None]
) -> None:
    running = [let_in(10) for _ in range(4)]
    assert promises(forecast, running, 2) == [100, 100]
    forecast.admitted()  # a new one, that nothing was promised to
    clock(101)
    forecast.admitted()
    assert promises(forecast, running, 1) == [100]
    forecast.admitted()
    assert promises(forecast, running, 2) == [100, 100]


def test_several_sequences_take_several_places_and_end_together(forecast: Forecast) -> None:
    several = let_in(10, do_sample=True, num_return_sequences=4)
    assert promises(forecast, [several, let_in(20)], 2) == [100, 250]


def test_less_runs_at_once_where_the_cache_is_small(forecast: Forecast) -> None:
    assert promises(forecast, [let_in(4991) for _ in range(4)], 3) == [49910, 49910, 99820]


def test_room_is_counted_in_whole_blocks(forecast: Forecast) -> None:
    assert promises(forecast, [let_in(4992) for _ in range(4)], 3) == [49920, 99840, 149760]


def test_beams_wait_for_beams_alone(forecast: Forecast) -> None:
    beams = [let_in(10, lane="reference", num_beams=2) for _ in range(3)]
    assert promises(forecast, [*beams, let_in(50)], 4) == [100, 200, 300, 300]


def test_long_prompts_take_their_time(forecast: Forecast) -> None:
    assert promises(forecast, [let_in(10, prompt=2560)], 1) == [200]


def test_it_learns_how_long_answers_and_steps_really_are(forecast: Forecast) -> None:
    for _ in range(100):
        short = let_in(100, done=10)
        short.started = time.monotonic() - 10 * 2 * STEP
        forecast.ended(short)
    assert promises(forecast, [let_in(100)], 1) == [100 * 0.1 * 2 * STEP]


def test_a_lone_requests_pace_is_not_taken_for_a_full_lanes(forecast: Forecast) -> None:
    for _ in range(100):
        quick = let_in(10, done=10)
        quick.started = time.monotonic() - 10 * STEP / 5
        forecast.ended(quick)
    assert promises(forecast, [let_in(10)], 1) == [100]


def test_of_what_never_began_nothing_is_learnt(forecast: Forecast) -> None:
    forecast.ended(let_in(10))
    assert promises(forecast, [let_in(10)], 1) == [100]


def test_of_a_cancelled_request_only_the_pace_is_learnt(forecast: Forecast) -> None:
    left = let_in(100, done=10)
    left.started = time.monotonic() - 10 * STEP
    left.cancel()
    forecast.ended(left)
    assert promises(forecast, [let_in(10)], 1) == [100]


def test_promises_have_an_end(forecast: Forecast) -> None:
    running = [let_in(1000) for _ in range(4)]
    told = [forecast.promise(running) for _ in range(PROMISES + 50)]
    assert told[-1] == pytest.approx(told[PROMISES], rel=0.05)


def test_where_nothing_is_wanted_any_more_a_place_is_free_at_once(forecast: Forecast) -> None:
    assert forecast.promise([]) == 1
    assert forecast.promise([]) == 1


def test_a_step_is_measured_with_as_many_sequences_as_there_is_room_for(tiny_model: Path) -> None:
    model = load(tiny_model, "float32", None).model
    cache = cache_for(model, 10)
    assert 0 < seconds_per_step(Decoder(model, cache), cache, 16) < 10
    assert cache.reserved == 0
