"""The queue in front of a lane: bounded, first come first served, cancellable."""

import collections
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from app.engine.request import (
    EngineError,
    Event,
    Generation,
    GenerationRequest,
    InvalidScoresError,
    QueueFullError,
)
from app.logs import logger

log = logger(__name__)


class CancelledError(Exception):
    """Raised inside a lane to leave a generation that nobody waits for any more."""


class Lane(Protocol):
    """A way to generate."""

    def run(self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
        """Generate the whole answer to `request`, calling `emit` for each event.

        Raises:
            CancelledError: soon after `cancelled()` became true.
            InvalidScoresError: see there.
        """


class Engine:
    """Runs requests on a lane, `concurrency` at once, and lets at most `max_queue` more wait.

    Args:
        lane: generates.
        concurrency: requests that generate at once, each on a thread of its own.
        max_queue: requests that wait beyond those.
    """

    def __init__(self, lane: Lane, concurrency: int, max_queue: int) -> None:
        self._lane = lane
        self._concurrency = concurrency
        self._max_queue = max_queue
        self._queue: collections.deque[Generation] = collections.deque()
        self._changed = threading.Condition()  # its lock is re-entrant
        self._running = 0
        self._seconds_per_request = 1.0
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue `request` and return its answer, which fills as it is generated.

        Raises:
            QueueFullError: at once, where too many wait.
        """
        generation = Generation(request)
        with self._changed:
            waiting = self.waiting
            if self._running + waiting >= self._concurrency + self._max_queue:
                raise QueueFullError(
                    f"{self._running} requests are running and {waiting} are waiting, "
                    f"as many as CHAT_MAX_QUEUE ({self._max_queue}) lets in: try again later.",
                    max(1, math.ceil(self._seconds_per_request * waiting / self._concurrency)),
                )
            self._queue.append(generation)
            self._changed.notify()
        return generation

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread, without those that were cancelled meanwhile."""
        with self._changed:
            return sum(not generation.cancelled for generation in self._queue)

    @property
    def alive(self) -> bool:
        """Whether every thread that should generate still does."""
        return all(thread.is_alive() for thread in self._threads)

    def _next(self) -> Generation:
        """Wait for the next request and count it as running."""
        with self._changed:
            while True:
                while self._queue:
                    generation = self._queue.popleft()
                    if not generation.cancelled:
                        self._running += 1
                        return generation
                    generation.put(None)
                self._changed.wait()

    def _work(self) -> None:
        while True:
            generation = self._next()
            generation.started = time.monotonic()
            end: Exception | None = _failure()
            try:
                end = self._run(generation)
            finally:
                seconds = time.monotonic() - generation.started
                with self._changed:
                    self._running -= 1
                    self._seconds_per_request += 0.2 * (seconds - self._seconds_per_request)
                generation.put(end)

    def _run(self, generation: Generation) -> Exception | None:
        """Generate, and return how it ended: None, or the error that the reader is to see."""
        try:
            self._lane.run(generation.request, generation.put, lambda: generation.cancelled)
        except CancelledError:
            return None
        except InvalidScoresError as error:
            return error
        except Exception:
            log.exception("generation failed", request_id=generation.request.id)
            return _failure()
        return None


def _failure() -> EngineError:
    return EngineError("Generating failed inside the server; its log says more under this request's id.")
