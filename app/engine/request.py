"""What goes into the engine and what comes out: requests, events, errors."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from app.api.chat.schema import GenerateKwargs

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]


class LoadError(Exception):
    """A checkpoint cannot be served; the text says why."""


class EngineError(Exception):
    """The engine could not serve a request, through no fault of the request."""


class QueueFullError(EngineError):
    """As many requests wait as are let in.

    Attributes:
        retry_after: seconds after which a place is likely.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CancelledError(Exception):
    """Raised to leave a generation that nobody waits for any more."""


class InvalidScoresError(Exception):
    """The settings of a request turned the scores into inf or nan, so that no token can be chosen."""


class Form(Protocol):
    """The form that an answer has to have, and how far it has come."""

    def begin(self) -> "Form":
        """The same form at its beginning, for one sequence."""

    def exclude(self, scores: "torch.Tensor") -> "torch.Tensor":
        """Exclude tokens that do not go on with it, from scores of shape (1, vocabulary); raises InvalidScoresError."""

    def append(self, token: int) -> None:
        """Go on with `token`."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated request: everything that the answer depends on.

    Attributes:
        id: for logs and metrics alone.
        prompt_ids: token ids of the prompt, at least one.
        max_length: prompt and new tokens together, in tokens; more than the prompt.
        min_length: likewise, at least.
        eos_token_ids: tokens that end a sequence; may be empty.
        pad_token_id: fills up sequences that ended before the others.
        kwargs: how to choose the tokens.
        logprobs: how many of the likeliest tokens to tell with each token, by the model's own scores, before any of
            the settings; None is no scores.
        logit_bias: added to the scores of tokens, by token id.
        presence_penalty: taken from the score of each token that the answer has.
        frequency_penalty: likewise, for each time that it has it.
        form: that the answer has to have; None is any.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_length: int
    min_length: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    kwargs: GenerateKwargs
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    form: Form | None = None

    @property
    def max_new_tokens(self) -> int:
        """Tokens that one sequence may add to the prompt."""
        return self.max_length - len(self.prompt_ids)

    @property
    def tokens(self) -> int:
        """Tokens that all its sequences may have, each with the prompt."""
        return self.max_length * max(self.kwargs.num_beams, self.kwargs.num_return_sequences)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log probabilities at one step (natural logarithm).

    In the distribution that the token was chosen from, or with `logprobs` in the model's own.

    Attributes:
        logprob: of the chosen token.
        top: (token id, log probability) of the likeliest tokens, likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One more token of a sequence.

    Attributes:
        sequence: number of the sequence, from 0; with beams, its rank.
        id: token id.
        scores: given where the request asked for output_scores or logprobs.
    """

    sequence: int
    id: int
    scores: TokenScores | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a sequence: `stop` at an end token, `length` at the limit."""

    sequence: int
    reason: FinishReason


Event = Token | Finished


@dataclass(slots=True, eq=False)
class Generation:
    """The running answer to one request.

    A lane puts events and then one end; one reader takes them.

    Attributes:
        request: what is answered.
        lane: name of the lane that answers.
        on_end: called once, when the answer has ended.
        submitted: when it was let in, in seconds of the monotonic clock.
        started: when a lane began with it.
        first_token: when its first token came.
        tokens: that came so far, in all its sequences.
        cached_tokens: of the prompt, that did not have to be computed.
    """

    request: GenerationRequest
    lane: str
    on_end: "Callable[[Generation], None]"
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    tokens: int = 0
    cached_tokens: int = 0
    _events: "queue.SimpleQueue[Event | Exception | None]" = field(default_factory=queue.SimpleQueue)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _first_end: threading.Lock = field(default_factory=threading.Lock)
    _stopped: set[int] = field(default_factory=set)

    def put(self, event: Event) -> None:
        """Hand on an event (lane's side)."""
        if isinstance(event, Token):
            self.first_token = self.first_token or time.monotonic()
            self.tokens += 1
        self._events.put(event)

    def end(self, error: Exception | None) -> None:
        """End the answer, with an error unless that is None; from any thread, and only the first call counts."""
        if self._first_end.acquire(blocking=False):
            self.on_end(self)
            self._events.put(error)
            self._ended.set()

    def cancel(self) -> None:
        """Stop generating at the next step, or before the first; may be called from any thread, any number of times."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def stop(self, sequence: int) -> None:
        """Generate no more of one sequence, which is complete as it is (reader's side)."""
        self._stopped.add(sequence)

    def wanted(self, sequence: int) -> bool:
        """Whether more of a sequence is to be generated (lane's side)."""
        return not self.cancelled and sequence not in self._stopped

    def wait(self, seconds: float) -> bool:
        """Wait for the end, for so long at most, and return whether it came (reader's side)."""
        return self._ended.wait(seconds)

    def events(self, poll: float | None = None) -> Iterator[Event | None]:
        """Yield the events in order, each as soon as it is there, to the end (reader's side).

        Args:
            poll: after so many seconds without an event None is yielded; None is never.

        Raises:
            InvalidScoresError: see there.
            EngineError: the generation failed.
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


def failure() -> EngineError:
    """What a reader hears of a fault inside the server."""
    return EngineError("Generating failed inside the server; its log says more under this request's id.")
