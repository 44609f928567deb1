"""Estimates `Retry-After`: when a rejected request would be admitted, from queued work and measured throughput."""

import heapq
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.engine.kv_cache.slot_allocator import round_up_to_block
from app.engine.stream import RequestStream, WorkerName

# Weight of the newest request in the moving averages.
NEWEST_WEIGHT = 0.1
# Rejected requests with a reservation of their own; later ones share the last one's time.
MAX_RESERVATIONS = 512
# A reservation lapses so long after its time.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine can do at once.

    Attributes:
        max_concurrency: sequences of the batch worker.
        num_slots: slots of the KV cache that those share.
        max_prefill_tokens: prompt tokens of a step.
        step_seconds: duration of a step with all of them.
    """

    max_concurrency: int
    num_slots: int
    max_prefill_tokens: int
    step_seconds: float


class RetryAfterEstimator:
    """Simulates the workers' queues, and spreads rejected requests by reserving a time for each."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._step_seconds: dict[WorkerName, float] = dict.fromkeys(("batch", "beam_search"), capacity.step_seconds)
        # Average fraction of max_tokens that a sequence generates.
        self._output_fraction = 1.0
        # Times at which rejected requests are to return, in the order in which they will find capacity.
        self._reservations: list[float] = []

    def request_admitted(self) -> None:
        """Give the first due reservation to a request that was admitted."""
        if (index := self._first_due(time.monotonic())) is not None:
            del self._reservations[index]

    def request_finished(self, stream: RequestStream) -> None:
        """Update the averages."""
        if stream.started_at is None or not stream.num_tokens:
            return
        output_steps = stream.num_tokens / stream.request.params.n
        seconds = (time.monotonic() - stream.started_at) / (self._prefill_steps(stream) + output_steps)
        self._step_seconds[stream.worker] += NEWEST_WEIGHT * (seconds - self._step_seconds[stream.worker])
        if not stream.cancelled:
            fraction = output_steps / stream.request.params.max_tokens
            self._output_fraction += NEWEST_WEIGHT * (fraction - self._output_fraction)

    def reserve(self, admitted: Sequence[RequestStream]) -> int:
        """Return the whole seconds, at least 1, until one more request finds capacity behind earlier reservations.

        A request that comes when a reservation is due takes its place: the estimate was wrong, because the request
        found no capacity, so it gets the next time.

        Args:
            admitted: requests that run or wait, in order of arrival.
        """
        now = time.monotonic()
        self._reservations = [due for due in self._reservations if due > now - GRACE_SECONDS]
        index = self._first_due(now)
        if index is None:
            index = len(self._reservations)
        ends = self._simulate(admitted, now)
        seconds = max(1, math.ceil(sorted(ends)[min(index, len(ends) - 1)])) if ends else 1
        if index < MAX_RESERVATIONS:
            self._reservations[index : index + 1] = [now + seconds]
        return seconds

    def _simulate(self, admitted: Sequence[RequestStream], now: float) -> list[float]:
        """Return the seconds from now at which each admitted request and then each reservation ends."""
        free_at: dict[WorkerName, list[float]] = {
            "batch": [0.0] * self._concurrent_sequences(admitted),
            "beam_search": [0.0],
        }
        ends: list[float] = []
        durations: list[float] = []
        for stream in admitted:
            # A lone request is faster than the same request in a full batch.
            step_seconds = max(self._capacity.step_seconds, self._step_seconds[stream.worker])
            params = stream.request.params
            steps = self._prefill_steps(stream) + self._output_fraction * params.max_tokens
            remaining = step_seconds * max(1.0, steps - stream.num_tokens / params.n)
            durations.append(step_seconds * steps)
            ends.append(max(_run_next(free_at[stream.worker], remaining) for _ in range(params.n)))
        mean = statistics.mean(durations or [0.0])
        return ends + [_run_next(free_at["batch"], mean, due - now) for due in self._reservations]

    def _concurrent_sequences(self, admitted: Sequence[RequestStream]) -> int:
        """Return how many sequences of the admitted requests' mean length run at once."""
        lengths = [round_up_to_block(each.request.max_length) for each in admitted if each.worker == "batch"]
        fit = int(self._capacity.num_slots / statistics.mean(lengths)) if lengths else self._capacity.max_concurrency
        return max(1, min(self._capacity.max_concurrency, fit))

    def _prefill_steps(self, stream: RequestStream) -> float:
        num_tokens = len(stream.request.prompt_token_ids) - stream.num_cached_tokens
        return num_tokens / self._capacity.max_prefill_tokens

    def _first_due(self, now: float) -> int | None:
        """Return the index of the first reservation whose time has come."""
        return next((index for index, due in enumerate(self._reservations) if due <= now), None)


def _run_next(free_at: list[float], duration: float, arrival: float = 0.0) -> float:
    """Run work that arrives at `arrival` where capacity is free first, and return when it ends."""
    end = max(free_at[0], arrival) + duration
    heapq.heapreplace(free_at, end)
    return end
