"""The way into the engine."""

import threading
from typing import Any

import pytest

from app.engine.beam_search.worker import SerialLane
from app.engine.engine import Engine, Lane
from app.engine.request import EngineError, QueueFullError
from app.engine.retry_after import Forecast
from tests.support.requests import read, request, wait_for

BEAMS: dict[str, Any] = {"num_beams": 2}


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def engine(gate: threading.Event) -> Engine:
    lanes = [SerialLane(lambda *_: gate.wait()) for _ in range(2)]
    return of(*lanes, max_queue=2, max_tokens=100, stall_seconds=0.3)


def of(batched: Lane, reference: Lane, **settings: Any) -> Engine:
    """An engine with one sequence at a time."""
    return Engine(batched, reference, concurrency=1, forecast=Forecast(1, 1000, 0.9), **settings)


@pytest.mark.parametrize(("kwargs", "lane"), [({}, "batched"), ({"do_sample": True}, "batched"), (BEAMS, "reference")])
def test_beam_search_has_a_lane_of_its_own(
    engine: Engine, gate: threading.Event, kwargs: dict[str, Any], lane: str
) -> None:
    answer = engine.submit(request([1], 1, **kwargs))
    assert answer.lane == lane
    wait_for(lambda: engine.lanes[lane].running == 1)
    gate.set()
    read(answer)


def test_more_than_the_bound_is_refused_with_a_time_to_come_back(engine: Engine, gate: threading.Event) -> None:
    for _ in range(3):
        engine.submit(request([1], 1))
    wait_for(lambda: (engine.running, engine.waiting) == (1, 2))
    with pytest.raises(QueueFullError, match=r"CHAT_MAX_QUEUE \(2\)") as refused:
        engine.submit(request([1], 1))
    assert refused.value.retry_after == 1
    with pytest.raises(QueueFullError) as next_one:
        engine.submit(request([1], 1))
    assert next_one.value.retry_after == 2
    gate.set()


def test_more_tokens_than_the_bound_are_refused_unless_they_are_asked_for_alone(
    engine: Engine, gate: threading.Event
) -> None:
    engine.submit(request([1], 200))
    with pytest.raises(QueueFullError, match=r"ask for 201 tokens, .* the 2 of .* CHAT_MAX_QUEUE_TOKENS .*\(100\)"):
        engine.submit(request([1], 1))
    gate.set()
    wait_for(lambda: not engine.busy)
    gate.clear()
    answers = [engine.submit(request([1], 10, num_beams=2)) for _ in range(3)]
    gate.set()
    for answer in answers:
        read(answer)


def test_a_cancelled_request_that_waits_gives_its_place_back(engine: Engine, gate: threading.Event) -> None:
    answers = [engine.submit(request([1], 1)) for _ in range(3)]
    wait_for(lambda: engine.running == 1)
    answers[1].cancel()
    late = engine.submit(request([1], 1))
    gate.set()
    read(late)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_a_dead_lane_takes_nothing_and_the_engine_is_not_alive() -> None:
    def die(*_: object) -> None:
        raise SystemExit

    engine = of(SerialLane(die), SerialLane(die), max_queue=0, max_tokens=1, stall_seconds=1)
    with pytest.raises(EngineError):
        read(engine.submit(request([1], 1)))
    wait_for(lambda: not engine.alive)
    with pytest.raises(EngineError):
        engine.submit(request([1], 1))


def test_an_engine_that_is_stuck_is_not_alive_until_it_goes_on(engine: Engine, gate: threading.Event) -> None:
    assert engine.alive
    engine.submit(request([1], 1))
    wait_for(lambda: not engine.alive)
    gate.set()
    wait_for(lambda: engine.alive)
