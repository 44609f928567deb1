"""The worker that serves one request after another."""

import threading
from collections.abc import Callable

import pytest

from app.engine.beam_search.worker import BeamSearchWorker
from app.engine.exceptions import CancelledError, EngineError, InvalidLogitsError
from app.engine.request import GenerationRequest
from app.engine.stream import Event, Finished, Token
from tests.support.requests import new_stream, read, request, wait_for


class Gate:
    """Generates one token for each request after `opened` is released."""

    def __init__(self) -> None:
        self.opened = threading.Semaphore(0)
        self.order: list[tuple[int, ...]] = []
        self.error: BaseException | None = None

    def __call__(
        self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]
    ) -> None:
        self.order.append(request.prompt_token_ids)
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
def worker(gate: Gate) -> BeamSearchWorker:
    return BeamSearchWorker(gate)


def test_events_come_in_order(gate: Gate, worker: BeamSearchWorker) -> None:
    gate.opened.release()
    stream = new_stream(request([1], 1))
    worker.submit(stream)
    assert read(stream) == [Token(0, 7), Finished(0, "stop")]


def test_reader_can_wait_until_the_stream_closes(gate: Gate, worker: BeamSearchWorker) -> None:
    stream = new_stream(request([1], 1))
    worker.submit(stream)
    assert not stream.wait(0.05)
    gate.opened.release()
    assert stream.wait(10)
    assert stream.num_tokens == 1
    assert stream.first_token_at is not None
    assert stream.submitted_at <= stream.first_token_at


def test_requests_are_served_first_come_first_served(gate: Gate, worker: BeamSearchWorker) -> None:
    streams = [new_stream(request([number], 1)) for number in range(3)]
    for stream in streams:
        worker.submit(stream)
    for stream in streams:
        gate.opened.release()
        read(stream)
    assert gate.order == [(0,), (1,), (2,)]


def test_cancelled_request_in_the_queue_is_never_started(gate: Gate, worker: BeamSearchWorker) -> None:
    streams = [new_stream(request([number], 1)) for number in range(3)]
    for stream in streams:
        worker.submit(stream)
    wait_for(lambda: (worker.running, worker.waiting) == (1, 2))
    streams[1].cancel()
    assert worker.waiting == 1
    for _ in range(2):
        gate.opened.release()
    assert [len(read(stream)) for stream in streams] == [2, 0, 2]
    assert gate.order == [(0,), (2,)]


def test_cancelled_running_request_stops(worker: BeamSearchWorker) -> None:
    stream = new_stream(request([1], 1))
    worker.submit(stream)
    wait_for(lambda: worker.running == 1)
    stream.cancel()
    assert read(stream) == []
    wait_for(lambda: worker.running == 0)


def test_failing_request_fails_alone_without_revealing_the_prompt(gate: Gate, worker: BeamSearchWorker) -> None:
    gate.error = ZeroDivisionError("secret words of the prompt")
    first, second = (new_stream(request([1], 1)) for _ in range(2))
    gate.opened.release()
    worker.submit(first)
    with pytest.raises(EngineError) as failed:
        read(first)
    assert "secret" not in str(failed.value)
    gate.error = None
    gate.opened.release()
    worker.submit(second)
    assert read(second)
    assert worker.alive


def test_invalid_logits_error_reaches_the_reader(gate: Gate, worker: BeamSearchWorker) -> None:
    gate.error = InvalidLogitsError("why")
    gate.opened.release()
    stream = new_stream(request([1], 1))
    worker.submit(stream)
    with pytest.raises(InvalidLogitsError, match="why"):
        read(stream)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_dead_thread_ends_its_stream_and_the_worker_is_not_alive(gate: Gate, worker: BeamSearchWorker) -> None:
    assert worker.alive
    gate.error = SystemExit()
    gate.opened.release()
    stream = new_stream(request([1], 1))
    worker.submit(stream)
    with pytest.raises(EngineError):
        read(stream)
    wait_for(lambda: not worker.alive)


def test_stalled_worker_counts_the_seconds_and_an_idle_one_does_not(worker: BeamSearchWorker) -> None:
    stuck = threading.Event()
    hung = BeamSearchWorker(lambda *_: stuck.wait())
    for each in (worker, hung):
        assert each.stalled_seconds == 0
    stream = new_stream(request([1], 1))
    hung.submit(stream)
    wait_for(lambda: hung.stalled_seconds > 0.2)
    stuck.set()
    read(stream)
    wait_for(lambda: hung.stalled_seconds == 0)
