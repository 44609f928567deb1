"""Admission to the engine."""

import threading
from typing import Any

import pytest

from app.engine.beam_search.worker import BeamSearchWorker
from app.engine.engine import AdmissionLimits, Engine, Worker
from app.engine.exceptions import EngineError, QueueFullError
from app.engine.retry_after import Capacity, RetryAfterEstimator
from app.engine.stream import WorkerName
from tests.support.requests import beams, read, request, wait_for

BEAMS: dict[str, Any] = {"beam_search": beams(2)}


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def engine(gate: threading.Event) -> Engine:
    first, second = (BeamSearchWorker(lambda *_: gate.wait()) for _ in range(2))
    return new_engine(first, second, max_queue=2, max_tokens=100, stall_seconds=0.3)


def new_engine(batch: Worker, beam_search: Worker, max_queue: int, max_tokens: int, stall_seconds: float) -> Engine:
    """Return an engine that runs one sequence at a time."""
    capacity = Capacity(max_concurrency=1, num_slots=1000, max_prefill_tokens=256, step_seconds=0.9)
    limits = AdmissionLimits(1, max_queue, max_tokens)
    return Engine(batch, beam_search, limits, stall_seconds, RetryAfterEstimator(capacity))


@pytest.mark.parametrize(("params", "worker"), [({}, "batch"), ({"temperature": 1.0}, "batch"), (BEAMS, "beam_search")])
def test_beam_search_has_its_own_worker(
    engine: Engine, gate: threading.Event, params: dict[str, Any], worker: WorkerName
) -> None:
    stream = engine.submit(request([1], 1, **params))
    assert stream.worker == worker
    wait_for(lambda: engine.workers[worker].running == 1)
    gate.set()
    read(stream)


def test_full_queue_rejects_with_retry_after(engine: Engine, gate: threading.Event) -> None:
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


def test_token_limit_rejects_all_but_a_lone_request(engine: Engine, gate: threading.Event) -> None:
    engine.submit(request([1], 200))
    with pytest.raises(QueueFullError, match=r"with 201 tokens; 2 more exceed .* CHAT_MAX_QUEUE_TOKENS \(100\)"):
        engine.submit(request([1], 1))
    gate.set()
    wait_for(lambda: not engine.busy)
    gate.clear()
    streams = [engine.submit(request([1], 10, **BEAMS)) for _ in range(3)]
    gate.set()
    for stream in streams:
        read(stream)


def test_cancelled_queued_request_frees_its_place_in_the_queue(engine: Engine, gate: threading.Event) -> None:
    streams = [engine.submit(request([1], 1)) for _ in range(3)]
    wait_for(lambda: engine.running == 1)
    streams[1].cancel()
    late = engine.submit(request([1], 1))
    gate.set()
    read(late)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_dead_worker_rejects_requests_and_the_engine_is_not_alive() -> None:
    def die(*_: object) -> None:
        raise SystemExit

    engine = new_engine(BeamSearchWorker(die), BeamSearchWorker(die), max_queue=0, max_tokens=1, stall_seconds=1)
    with pytest.raises(EngineError):
        read(engine.submit(request([1], 1)))
    wait_for(lambda: not engine.alive)
    with pytest.raises(EngineError):
        engine.submit(request([1], 1))


def test_stuck_engine_is_not_alive_until_it_makes_progress(engine: Engine, gate: threading.Event) -> None:
    assert engine.alive
    engine.submit(request([1], 1))
    wait_for(lambda: not engine.alive)
    gate.set()
    wait_for(lambda: engine.alive)
