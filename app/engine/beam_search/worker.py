"""A lane that generates for one request after another."""

import collections
import threading
import time
from collections.abc import Callable

from app.engine.request import CancelledError, Event, Generation, GenerationRequest, InvalidScoresError, failure
from app.logs import logger

log = logger(__name__)

# From a request, where its events go, and whether it is still wanted; raises CancelledError soon after it is not.
Generate = Callable[[GenerationRequest, Callable[[Event], None], Callable[[], bool]], object]


class SerialLane:
    """Runs `generate` on one request at a time, first come first served."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._queue: collections.deque[Generation] = collections.deque()
        self._changed = threading.Condition()
        self._running = 0
        self._stepped = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="reference", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Queue `generation`; see `app.engine.engine.Lane`, also for what follows."""
        with self._changed:
            self._queue.append(generation)
            self._changed.notify()

    @property
    def running(self) -> int:
        """1 while it generates."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        with self._changed:
            return sum(not generation.cancelled for generation in self._queue)

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last step."""
        return time.monotonic() - self._stepped if self._running else 0.0

    def _next(self) -> Generation:
        """Wait for the next request and count it as running."""
        with self._changed:
            while True:
                while self._queue:
                    generation = self._queue.popleft()
                    if not generation.cancelled:
                        self._stepped = time.monotonic()
                        self._running = 1
                        return generation
                    generation.end(None)
                self._changed.wait()

    def _work(self) -> None:
        while True:
            generation = self._next()
            generation.started = time.monotonic()
            end: Exception | None = failure()
            try:
                end = self._run(generation)
            finally:
                self._running = 0
                generation.end(end)

    def _run(self, generation: Generation) -> Exception | None:
        """Generate, and return how it ended: None, or the error that the reader is to see."""

        def cancelled() -> bool:
            self._stepped = time.monotonic()
            return generation.cancelled

        try:
            self._generate(generation.request, generation.put, cancelled)
        except CancelledError:
            return None
        except InvalidScoresError as error:
            return error
        except Exception:
            log.exception("generation failed", request_id=generation.request.id)
            return failure()
        return None
