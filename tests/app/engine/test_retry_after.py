"""Estimates of Retry-After."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from app.engine.retry_after import GRACE_SECONDS, MAX_RESERVATIONS, Capacity, RetryAfterEstimator
from app.engine.stream import RequestStream, WorkerName
from tests.support.requests import beams, request

STEP = 10.0


@pytest.fixture
def estimator() -> RetryAfterEstimator:
    return RetryAfterEstimator(Capacity(max_concurrency=4, num_slots=10_000, max_prefill_tokens=256, step_seconds=STEP))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stops the clock, and then sets it to so many seconds after."""
    stopped = time.monotonic()

    def after(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: stopped + seconds)

    after(0)
    return after


def admitted(
    max_tokens: int, done: int = 0, worker: WorkerName = "batch", prompt: int = 1, **params: Any
) -> RequestStream:
    """Return a request for so many tokens, `done` of which are generated."""
    answer = RequestStream(request([1] * prompt, max_tokens, **params), worker, on_close=lambda _: None)
    answer.num_tokens = done
    return answer


def reservations(estimator: RetryAfterEstimator, running: list[RequestStream], count: int) -> list[Any]:
    """Reject so many requests and return their Retry-After times."""
    return [pytest.approx(estimator.reserve(running), rel=0.05) for _ in range(count)]


def test_each_rejected_request_gets_its_own_time(estimator: RetryAfterEstimator) -> None:
    running = [admitted(10), admitted(20), admitted(30), admitted(40)]
    # Those that come back take the place of those that have ended, with the average of the work: 250 seconds.
    assert reservations(estimator, running, 6) == [100, 200, 300, 350, 400, 450]


def test_queued_requests_come_first(estimator: RetryAfterEstimator) -> None:
    assert reservations(estimator, [admitted(10) for _ in range(8)], 9) == [100] * 4 + [200] * 4 + [300]


def test_generated_tokens_shorten_the_estimate(estimator: RetryAfterEstimator) -> None:
    assert reservations(estimator, [admitted(100, done=90)], 1) == [100]


def test_reservation_lapses_after_its_grace_period(
    estimator: RetryAfterEstimator, clock: Callable[[float], None]
) -> None:
    running = [admitted(10) for _ in range(4)]
    assert reservations(estimator, running, 5) == [100, 100, 100, 100, 200]
    clock(105 + GRACE_SECONDS)
    assert reservations(estimator, running, 4) == [100, 100, 100, 200]


def test_request_that_returns_on_time_gets_the_next_time(
    estimator: RetryAfterEstimator, clock: Callable[[float], None]
) -> None:
    running = [admitted(10) for _ in range(4)]
    assert reservations(estimator, running, 6) == [100] * 4 + [200] * 2
    # Half of the work has been done when all of it should have been.
    late = [admitted(10, done=5) for _ in range(4)]
    clock(101)
    assert reservations(estimator, late, 4) == [50] * 4
    # Another that comes now is none of them.
    assert reservations(estimator, late, 1) == [150]


def test_admitted_request_uses_up_one_due_reservation(
    estimator: RetryAfterEstimator, clock: Callable[[float], None]
) -> None:
    running = [admitted(10) for _ in range(4)]
    assert reservations(estimator, running, 2) == [100, 100]
    estimator.request_admitted()  # a new one, that nothing was promised to
    clock(101)
    estimator.request_admitted()
    assert reservations(estimator, running, 1) == [100]
    estimator.request_admitted()
    assert reservations(estimator, running, 2) == [100, 100]


def test_request_with_several_sequences_counts_each_and_ends_with_the_last(estimator: RetryAfterEstimator) -> None:
    several = admitted(10, n=4)
    assert reservations(estimator, [several, admitted(20)], 2) == [100, 250]


def test_small_kv_cache_lowers_the_concurrency(estimator: RetryAfterEstimator) -> None:
    assert reservations(estimator, [admitted(4991) for _ in range(4)], 3) == [49910, 49910, 99820]


def test_sequence_length_is_rounded_up_to_blocks(estimator: RetryAfterEstimator) -> None:
    assert reservations(estimator, [admitted(4992) for _ in range(4)], 3) == [49920, 99840, 149760]


def test_beam_searches_wait_only_for_beam_searches(estimator: RetryAfterEstimator) -> None:
    searches = [admitted(10, worker="beam_search", beam_search=beams(2)) for _ in range(3)]
    assert reservations(estimator, [*searches, admitted(50)], 4) == [100, 200, 300, 300]


def test_prefill_counts_toward_the_estimate(estimator: RetryAfterEstimator) -> None:
    assert reservations(estimator, [admitted(10, prompt=2560)], 1) == [200]


def test_estimate_learns_output_length_and_step_time(estimator: RetryAfterEstimator) -> None:
    for _ in range(100):
        short = admitted(100, done=10)
        short.started_at = time.monotonic() - 10 * 2 * STEP
        estimator.request_finished(short)
    assert reservations(estimator, [admitted(100)], 1) == [100 * 0.1 * 2 * STEP]


def test_lone_request_does_not_lower_the_step_time(estimator: RetryAfterEstimator) -> None:
    for _ in range(100):
        quick = admitted(10, done=10)
        quick.started_at = time.monotonic() - 10 * STEP / 5
        estimator.request_finished(quick)
    assert reservations(estimator, [admitted(10)], 1) == [100]


def test_request_that_never_started_changes_no_average(estimator: RetryAfterEstimator) -> None:
    estimator.request_finished(admitted(10))
    assert reservations(estimator, [admitted(10)], 1) == [100]


def test_cancelled_request_changes_only_the_step_time(estimator: RetryAfterEstimator) -> None:
    left = admitted(100, done=10)
    left.started_at = time.monotonic() - 10 * STEP
    left.cancel()
    estimator.request_finished(left)
    assert reservations(estimator, [admitted(10)], 1) == [100]


def test_number_of_reservations_is_limited(estimator: RetryAfterEstimator) -> None:
    running = [admitted(1000) for _ in range(4)]
    seconds = [estimator.reserve(running) for _ in range(MAX_RESERVATIONS + 50)]
    assert seconds[-1] == pytest.approx(seconds[MAX_RESERVATIONS], rel=0.05)


def test_estimate_without_admitted_requests_is_one_second(estimator: RetryAfterEstimator) -> None:
    assert estimator.reserve([]) == 1
    assert estimator.reserve([]) == 1
