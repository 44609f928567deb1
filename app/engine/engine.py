"""The entrance to the engine: admits requests and passes each to a worker."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.engine.exceptions import QueueFullError, internal_error
from app.engine.request import GenerationRequest
from app.engine.retry_after import RetryAfterEstimator
from app.engine.stream import RequestStream, WorkerName


class Worker(Protocol):
    """Generates on a thread of its own."""

    def submit(self, stream: RequestStream) -> None:
        """Queue a request: its events follow, then the stream is closed."""

    @property
    def running(self) -> int:
        """Running requests."""

    @property
    def waiting(self) -> int:
        """Waiting requests that are not cancelled."""

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last step, or 0 without work."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much the engine admits.

    Attributes:
        max_concurrency: sequences that run at once.
        max_queue: requests that wait.
        max_tokens: tokens that all requests ask for together, prompts included; a single request can ask for more.
    """

    max_concurrency: int
    max_queue: int
    max_tokens: int


class Engine:
    """Runs beam searches on one worker, and all other requests on another.

    Args:
        batch: serves many requests at once.
        beam_search: serves one request at a time.
        limits: how much is admitted.
        stall_seconds: without a step for so long, while there is work, a worker counts as stuck.
        retry_after: estimates when there is capacity again.
    """

    def __init__(
        self,
        batch: Worker,
        beam_search: Worker,
        limits: AdmissionLimits,
        stall_seconds: float,
        retry_after: RetryAfterEstimator,
    ) -> None:
        self.workers: dict[WorkerName, Worker] = {"batch": batch, "beam_search": beam_search}
        self._limits = limits
        self._stall_seconds = stall_seconds
        self._retry_after = retry_after
        self._lock = threading.Lock()  # one decision on admission at a time
        self._streams: dict[RequestStream, None] = {}  # in order of arrival

    def submit(self, request: GenerationRequest) -> RequestStream:
        """Queue `request` and return the stream of its tokens.

        Raises:
            QueueFullError: a limit is reached.
            EngineError: the worker is dead.
        """
        worker: WorkerName = "beam_search" if request.params.beam_search else "batch"
        stream = RequestStream(request, worker, on_close=self._closed)
        with self._lock:
            if reason := self._reason_to_reject(request):
                raise QueueFullError(f"{reason}. Try again later.", self._retry_after.reserve(self._admitted()))
            if not self.workers[worker].alive:
                raise internal_error()
            self._retry_after.request_admitted()
            self._streams[stream] = None
            self.workers[worker].submit(stream)
        return stream

    def _reason_to_reject(self, request: GenerationRequest) -> str | None:
        running, waiting = self.running, self.waiting
        load = f"{running} requests are running and {waiting} are waiting"
        if running + waiting >= self._limits.max_concurrency + self._limits.max_queue:
            return f"{load}, the limit of CHAT_MAX_QUEUE ({self._limits.max_queue})"
        num_tokens = [stream.request.num_tokens for stream in self._admitted()]
        if num_tokens and sum(num_tokens) + request.num_tokens > self._limits.max_tokens:
            return (
                f"{load} with {sum(num_tokens)} tokens; {request.num_tokens} more exceed the limit of the KV cache and "
                f"CHAT_MAX_QUEUE_TOKENS ({self._limits.max_tokens})"
            )
        return None

    def _admitted(self) -> Sequence[RequestStream]:
        """Return the running and waiting requests that are not cancelled, in order of arrival."""
        # list: other threads close streams meanwhile.
        return [stream for stream in list(self._streams) if not stream.cancelled]

    def abort(self, error: Exception) -> None:
        """End every running and waiting request with `error`."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()
            stream.close(error)

    @property
    def busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self._streams)

    @property
    def running(self) -> int:
        """Running requests."""
        return sum(worker.running for worker in self.workers.values())

    @property
    def waiting(self) -> int:
        """Waiting requests that are not cancelled."""
        return sum(worker.waiting for worker in self.workers.values())

    @property
    def alive(self) -> bool:
        """Whether all workers live and none is stuck."""
        return all(worker.alive and worker.stalled_seconds < self._stall_seconds for worker in self.workers.values())

    def _closed(self, stream: RequestStream) -> None:
        self._streams.pop(stream, None)
        self._retry_after.request_finished(stream)
