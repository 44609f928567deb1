"""The stream of tokens from the engine to the reader of one request."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from app.engine.request import GenerationRequest

FinishReason = Literal["stop", "length"]
WorkerName = Literal["batch", "beam_search"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities (natural logarithm) at one step.

    Attributes:
        logprob: log probability of the sampled token.
        top: (token id, log probability) of the most likely tokens, in descending order.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A new token of a sequence.

    Attributes:
        sequence: index of the sequence, from 0; with beam search, the rank of the beam.
        token_id: the token.
        logprobs: None unless the request asked for logprobs.
    """

    sequence: int
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a sequence: `stop` at an EOS token, `length` at max_tokens."""

    sequence: int
    reason: FinishReason


Event = Token | Finished


@dataclass(slots=True, eq=False)
class RequestStream:
    """Events of one request. A worker puts events and closes the stream; one reader takes them.

    Attributes:
        request: the request.
        worker: name of the worker that generates.
        on_close: called once, when the stream is closed.
        submitted_at: seconds of the monotonic clock when the engine admitted the request.
        started_at: when a worker started the request.
        first_token_at: when the first token came.
        num_tokens: tokens generated so far, in all sequences.
        num_cached_tokens: prompt tokens served from the prefix cache.
    """

    request: GenerationRequest
    worker: WorkerName
    on_close: "Callable[[RequestStream], None]"
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    first_token_at: float | None = None
    num_tokens: int = 0
    num_cached_tokens: int = 0
    _events: "queue.SimpleQueue[Event | Exception | None]" = field(default_factory=queue.SimpleQueue)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)
    _first_close: threading.Lock = field(default_factory=threading.Lock)
    _stopped_sequences: set[int] = field(default_factory=set)

    def put(self, event: Event) -> None:
        """Pass an event to the reader (worker's side)."""
        if isinstance(event, Token):
            self.first_token_at = self.first_token_at or time.monotonic()
            self.num_tokens += 1
        self._events.put(event)

    def close(self, error: Exception | None) -> None:
        """Close the stream, with an error unless that is None. Any thread may call this; only the first call counts."""
        if self._first_close.acquire(blocking=False):
            self.on_close(self)
            self._events.put(error)
            self._closed.set()

    def cancel(self) -> None:
        """Stop the request before its next step. Any thread may call this, any number of times."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def stop_sequence(self, sequence: int) -> None:
        """Stop one sequence before its next step (reader's side)."""
        self._stopped_sequences.add(sequence)

    def is_wanted(self, sequence: int) -> bool:
        """Whether the reader wants more tokens of a sequence (worker's side)."""
        return not self.cancelled and sequence not in self._stopped_sequences

    def wait(self, seconds: float) -> bool:
        """Wait until the stream is closed, at most `seconds`, and return whether it is (reader's side)."""
        return self._closed.wait(seconds)

    def events(self, poll: float | None = None) -> Iterator[Event | None]:
        """Yield events in order until the stream is closed (reader's side).

        Args:
            poll: yield None after so many seconds without an event; None waits without limit.

        Raises:
            InvalidLogitsError: the sampling parameters leave no token to sample.
            EngineError: the engine failed.
        """
        while True:
            try:
                event = self._events.get(timeout=poll)
            except queue.Empty:
                yield None
                continue
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event
