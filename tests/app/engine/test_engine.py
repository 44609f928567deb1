"""The queue in front of a lane."""

import threading
from collections.abc import Callable

import pytest

from app.engine.engine import CancelledError, Engine
from app.engine.request import (
    EngineError,
    Event,
    Finished,
    Generation,
    GenerationRequest,
    InvalidScoresError,
    QueueFullError,
    Token,
)
from app.schema import GenerateKwargs


class GatedLane:
    """A lane that holds every request until it is let through."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.order: list[str] = []
        self.error: Exception | None = None

    def run(self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
        self.order.append(request.id)
        while not self.gate.acquire(timeout=0.01):
            if cancelled():
                raise CancelledError
        if self.error:
            raise self.error
        emit(Token(0, 7))
        emit(Finished(0, "stop"))


def request(name: str = "one") -> GenerationRequest:
    return GenerationRequest(name, (1,), 2, 0, (0,), 0, GenerateKwargs())


def read(generation: Generation) -> list[Event]:
    return [event for event in generation.events(0.05) if event]


@pytest.fixture
def lane() -> GatedLane:
    return GatedLane()


@pytest.fixture
def engine(lane: GatedLane) -> Engine:
    return Engine(lane, concurrency=1, max_queue=2)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not happen within 5 seconds")


def test_a_request_gives_its_events_in_order(lane: GatedLane, engine: Engine) -> None:
    lane.gate.release()
    assert read(engine.submit(request())) == [Token(0, 7), Finished(0, "stop")]


def test_a_reader_hears_none_while_nothing_comes(engine: Engine) -> None:
    assert next(engine.submit(request()).events(0.01)) is None


def test_requests_are_served_first_come_first_served(lane: GatedLane, engine: Engine) -> None:
    generations = [engine.submit(request(name)) for name in ("a", "b", "c")]
    for generation in generations:
        lane.gate.release()
        read(generation)
    assert lane.order == ["a", "b", "c"]


def test_more_than_the_bound_is_refused_with_a_time_to_come_back(engine: Engine) -> None:
    for _ in range(3):
        engine.submit(request())
    wait_for(lambda: engine.running == 1)
    assert engine.waiting == 2
    with pytest.raises(QueueFullError, match=r"CHAT_MAX_QUEUE \(2\)") as refused:
        engine.submit(request())
    assert refused.value.retry_after >= 1


def test_a_cancelled_request_that_waits_gives_its_place_back(lane: GatedLane, engine: Engine) -> None:
    generations = [engine.submit(request(str(number))) for number in range(3)]
    wait_for(lambda: engine.running == 1)
    generations[1].cancel()
    engine.submit(request("late"))
    for _ in range(3):
        lane.gate.release()
    read(generations[2])
    assert "1" not in lane.order


def test_a_cancelled_request_that_runs_stops(engine: Engine) -> None:
    generation = engine.submit(request())
    wait_for(lambda: engine.running == 1)
    generation.cancel()
    assert read(generation) == []
    wait_for(lambda: engine.running == 0)


def test_a_failing_lane_fails_the_request_and_nothing_else(lane: GatedLane, engine: Engine) -> None:
    lane.error = ZeroDivisionError("secret words of the prompt")
    lane.gate.release()
    with pytest.raises(EngineError) as failed:
        read(engine.submit(request()))
    assert "secret" not in str(failed.value)
    lane.error = None
    lane.gate.release()
    assert read(engine.submit(request()))
    assert engine.alive


def test_invalid_scores_reach_the_reader_as_such(lane: GatedLane, engine: Engine) -> None:
    lane.error = InvalidScoresError("why")
    lane.gate.release()
    with pytest.raises(InvalidScoresError, match="why"):
        read(engine.submit(request()))


class DyingLane(GatedLane):
    """A lane that ends its thread."""

    def run(self, *_: object) -> None:
        raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_a_thread_that_dies_tells_its_reader_and_the_engine_is_no_longer_alive() -> None:
    engine = Engine(DyingLane(), concurrency=1, max_queue=0)
    assert engine.alive
    with pytest.raises(EngineError):
        read(engine.submit(request()))
    wait_for(lambda: not engine.alive)


def test_several_requests_run_at_once_where_that_is_set(lane: GatedLane) -> None:
    engine = Engine(lane, concurrency=2, max_queue=0)
    generations = [engine.submit(request()) for _ in range(2)]
    wait_for(lambda: engine.running == 2)
    for _ in generations:
        lane.gate.release()
    assert all(read(generation) for generation in generations)
