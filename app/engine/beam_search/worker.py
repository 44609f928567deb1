"""A worker thread that serves one request after another."""

import collections
import threading
import time
from collections.abc import Callable

from app.engine.exceptions import CancelledError, InvalidLogitsError, internal_error
from app.engine.request import GenerationRequest
from app.engine.stream import Event, RequestStream
from app.logs import logger

log = logger(__name__)

# Takes a request, the receiver of its events, and whether it is cancelled; raises CancelledError soon after that.
Search = Callable[[GenerationRequest, Callable[[Event], None], Callable[[], bool]], object]


class BeamSearchWorker:
    """Runs `search` on one request at a time, first come, first served."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._queue: collections.deque[RequestStream] = collections.deque()
        self._changed = threading.Condition()
        self._running = 0
        self._last_step = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="beam_search", daemon=True)
        self._thread.start()

    def submit(self, stream: RequestStream) -> None:
        """Queue a request; see `app.engine.engine.Worker`, also for the properties below."""
        with self._changed:
            self._queue.append(stream)
            self._changed.notify()

    @property
    def running(self) -> int:
        """1 during a search, else 0."""
        return self._running

    @property
    def waiting(self) -> int:
        """Queued requests that are not cancelled."""
        with self._changed:
            return sum(not stream.cancelled for stream in self._queue)

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last step, or 0 without work."""
        return time.monotonic() - self._last_step if self._running else 0.0

    def _next(self) -> RequestStream:
        """Wait for the next request and count it as running."""
        with self._changed:
            while True:
                while self._queue:
                    stream = self._queue.popleft()
                    if not stream.cancelled:
                        self._last_step = time.monotonic()
                        self._running = 1
                        return stream
                    stream.close(None)
                self._changed.wait()

    def _work(self) -> None:
        while True:
            stream = self._next()
            stream.started_at = time.monotonic()
            error: Exception | None = internal_error()
            try:
                error = self._run(stream)
            finally:
                self._running = 0
                stream.close(error)

    def _run(self, stream: RequestStream) -> Exception | None:
        """Search, and return the error to close the stream with."""

        def cancelled() -> bool:
            self._last_step = time.monotonic()
            return stream.cancelled

        try:
            self._search(stream.request, stream.put, cancelled)
        except CancelledError:
            return None
        except InvalidLogitsError as error:
            return error
        except Exception:
            log.exception("beam search failed", request_id=stream.request.id)
            return internal_error()
        return None
