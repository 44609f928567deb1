"""The way into the engine: a bound on what is let in, and the choice of a lane."""

import math
import threading
import time
from typing import Protocol

from app.engine.request import Generation, GenerationRequest, QueueFullError, failure


class Lane(Protocol):
    """A way to generate, on a thread of its own."""

    def submit(self, generation: Generation) -> None:
        """Queue `generation`: its events follow, and then its end."""

    @property
    def running(self) -> int:
        """Requests that generate now."""

    @property
    def waiting(self) -> int:
        """Requests that wait, without those that were cancelled meanwhile."""

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last step while there is work; 0 where there is none."""


class Engine:
    """Runs requests on two lanes: beam search on one, everything else on the other.

    Args:
        batched: generates for many requests at once.
        reference: searches with beams, one request at a time.
        concurrency: sequences that generate at once on the batched lane.
        max_queue: requests that wait beyond those.
        stall_seconds: without a step for so long, while there is work, the engine is no longer alive.
    """

    def __init__(self, batched: Lane, reference: Lane, concurrency: int, max_queue: int, stall_seconds: float) -> None:
        self.lanes = {"batched": batched, "reference": reference}
        self._concurrency = concurrency
        self._max_queue = max_queue
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._seconds_per_request = 1.0
        self._generations: set[Generation] = set()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue `request` and return its answer, which fills as it is generated.

        Raises:
            QueueFullError: at once, where too many wait.
            EngineError: the lane is dead.
        """
        lane = "reference" if request.kwargs.num_beams > 1 else "batched"
        generation = Generation(request, lane, on_end=self._ended)
        with self._lock:
            running, waiting = self.running, self.waiting
            if running + waiting >= self._concurrency + self._max_queue:
                raise QueueFullError(
                    f"{running} requests are running and {waiting} are waiting, "
                    f"as many as CHAT_MAX_QUEUE ({self._max_queue}) lets in: try again later.",
                    max(1, math.ceil(self._seconds_per_request * waiting / self._concurrency)),
                )
            if not self.lanes[lane].alive:
                raise failure()
            self._generations.add(generation)
            self.lanes[lane].submit(generation)
        return generation

    def end(self, error: Exception) -> None:
        """End every request that runs or waits with `error`."""
        with self._lock:
            generations = list(self._generations)
        for generation in generations:
            generation.cancel()
            generation.end(error)

    @property
    def busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self._generations)

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return sum(lane.running for lane in self.lanes.values())

    @property
    def waiting(self) -> int:
        """Requests that wait, without those that were cancelled meanwhile."""
        return sum(lane.waiting for lane in self.lanes.values())

    @property
    def alive(self) -> bool:
        """Whether both lanes live and get on with their work."""
        return all(lane.alive and lane.idle_seconds < self._stall_seconds for lane in self.lanes.values())

    def _ended(self, generation: Generation) -> None:
        self._generations.discard(generation)
        if generation.started is not None:
            seconds = time.monotonic() - generation.started
            self._seconds_per_request += 0.2 * (seconds - self._seconds_per_request)
