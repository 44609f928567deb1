"""The lane that generates for one request after another."""

import threading
from collections.abc import Callable

import pytest

from app.engine.beam_search.worker import SerialLane
from app.engine.request import (
    CancelledError,
    EngineError,
    Event,
    Finished,
    GenerationRequest,
    InvalidScoresError,
    Token,
)
from tests.support.requests import generation, read, request, wait_for


class Gate:
    """Generates one token for every request, once it is let through."""

    def __init__(self) -> None:
        self.opened = threading.Semaphore(0)
        self.order: list[tuple[int, ...]] = []
        self.error: BaseException | None = None

    def __call__(self, wanted: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
        self.order.append(wanted.prompt_ids)
        while not self.opened.acquire(timeout=0.01):
            if cancelled():
                raise CancelledError
        if self.error:
            raise self.error
        emit(Token(0, 7))
        emit(Finished(0, "stop"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def lane(gate: Gate) -> SerialLane:
    return SerialLane(gate)


def test_a_request_gives_its_events_in_order(gate: Gate, lane: SerialLane) -> None:
    gate.opened.release()
    answer = generation(request([1], 1))
    lane.submit(answer)
    assert read(answer) == [Token(0, 7), Finished(0, "stop")]


def test_a_reader_can_wait_for_the_end(gate: Gate, lane: SerialLane) -> None:
    answer = generation(request([1], 1))
    lane.submit(answer)
    assert not answer.wait(0.05)
    gate.opened.release()
    assert answer.wait(10)
    assert answer.tokens == 1
    assert answer.first_token is not None
    assert answer.submitted <= answer.first_token


def test_requests_are_served_first_come_first_served(gate: Gate, lane: SerialLane) -> None:
    answers = [generation(request([number], 1)) for number in range(3)]
    for answer in answers:
        lane.submit(answer)
    for answer in answers:
        gate.opened.release()
        read(answer)
    assert gate.order == [(0,), (1,), (2,)]


def test_a_cancelled_request_that_waits_is_not_begun(gate: Gate, lane: SerialLane) -> None:
    answers = [generation(request([number], 1)) for number in range(3)]
    for answer in answers:
        lane.submit(answer)
    wait_for(lambda: (lane.running, lane.waiting) == (1, 2))
    answers[1].cancel()
    assert lane.waiting == 1
    for _ in range(2):
        gate.opened.release()
    assert [len(read(answer)) for answer in answers] == [2, 0, 2]
    assert gate.order == [(0,), (2,)]


def test_a_cancelled_request_that_runs_stops(lane: SerialLane) -> None:
    answer = generation(request([1], 1))
    lane.submit(answer)
    wait_for(lambda: lane.running == 1)
    answer.cancel()
    assert read(answer) == []
    wait_for(lambda: lane.running == 0)


def test_a_failing_request_fails_alone_and_tells_nothing_of_the_prompt(gate: Gate, lane: SerialLane) -> None:
    gate.error = ZeroDivisionError("secret words of the prompt")
    first, second = (generation(request([1], 1)) for _ in range(2))
    gate.opened.release()
    lane.submit(first)
    with pytest.raises(EngineError) as failed:
        read(first)
    assert "secret" not in str(failed.value)
    gate.error = None
    gate.opened.release()
    lane.submit(second)
    assert read(second)
    assert lane.alive


def test_invalid_scores_reach_the_reader_as_such(gate: Gate, lane: SerialLane) -> None:
    gate.error = InvalidScoresError("why")
    gate.opened.release()
    answer = generation(request([1], 1))
    lane.submit(answer)
    with pytest.raises(InvalidScoresError, match="why"):
        read(answer)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_a_thread_that_dies_tells_its_reader_and_the_lane_is_no_longer_alive(gate: Gate, lane: SerialLane) -> None:
    assert lane.alive
    gate.error = SystemExit()
    gate.opened.release()
    answer = generation(request([1], 1))
    lane.submit(answer)
    with pytest.raises(EngineError):
        read(answer)
    wait_for(lambda: not lane.alive)


def test_a_lane_that_is_stuck_counts_the_seconds_and_one_without_work_does_not(lane: SerialLane) -> None:
    stuck = threading.Event()
    hung = SerialLane(lambda *_: stuck.wait())
    for each in (lane, hung):
        assert each.idle_seconds == 0
    answer = generation(request([1], 1))
    hung.submit(answer)
    wait_for(lambda: hung.idle_seconds > 0.2)
    stuck.set()
    read(answer)
    wait_for(lambda: hung.idle_seconds == 0)
