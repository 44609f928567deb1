"""Read the output of a request while the engine generates it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.engine.stream import Event, FinishReason, RequestStream, Token
from app.metrics import Metrics
from app.output.detokenizer import Detokenizer
from app.output.stop_strings import StopStrings
from app.tokenizer import Tokenizer

# Seconds between two calls of `check`.
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Delta:
    """The text and tokens that one sequence gained since its last delta.

    Attributes:
        sequence: index of the sequence, from 0.
        text: new text.
        tokens: new tokens.
        finish_reason: None unless the sequence ended.
    """

    sequence: int
    text: str
    tokens: list[Token]
    finish_reason: FinishReason | None


@dataclass(slots=True)
class Output:
    """One sequence as far as it was read; `finish_reason` is None until it ends."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None


class OutputStream:
    """Reads the output of one request. Call `deltas` or `collect` once, then `close`.

    Args:
        stream: tokens from the engine.
        tokenizer: tokenizer of the model.
        metrics: metrics that count the request.
        check: called every POLL_SECONDS; raises an exception to abort the request.
        stop_strings: texts that end a sequence and are left out of it.
    """

    def __init__(
        self,
        stream: RequestStream,
        tokenizer: Tokenizer,
        metrics: Metrics,
        check: Callable[[], None],
        stop_strings: Sequence[str] = (),
    ) -> None:
        self.stream = stream
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._check = check
        self._stop_strings = stop_strings
        self._sequences: dict[int, _Sequence] = {}
        self._closed = False

    @property
    def outputs(self) -> list[Output]:
        """The sequences in order, as far as they were read."""
        return [self._sequences[number].output for number in sorted(self._sequences)]

    def collect(self) -> list[Output]:
        """Read to the end and return the sequences in order; raises what `deltas` raises."""
        for _ in self._read(wait_until_closed=not self._stop_strings):
            pass
        return self.outputs

    def deltas(self) -> Iterator[Delta | None]:
        """Yield deltas as they arrive, and None every POLL_SECONDS without one.

        Raises:
            InvalidLogitsError: the sampling parameters leave no token to sample.
            EngineError: the engine failed.
            Exception: raised by `check`.
        """
        yield from self._read(wait_until_closed=False)

    def close(self) -> None:
        """Cancel the request unless it has ended, and count its tokens; only the first call has an effect."""
        if not self._closed:
            self._closed = True
            self.stream.cancel()
            self._metrics.tokens_processed(self.stream)

    def _read(self, *, wait_until_closed: bool) -> Iterator[Delta | None]:
        try:
            # One wake-up for each token would take the interpreter lock from the engine.
            while wait_until_closed and not self.stream.wait(POLL_SECONDS):
                self._check()
            checked = time.monotonic()
            for event in self.stream.events(POLL_SECONDS):
                if time.monotonic() - checked >= POLL_SECONDS:
                    self._check()
                    checked = time.monotonic()
                delta = self._delta(event) if event else None
                if delta or not event:
                    yield delta
            self._metrics.request_finished(self.stream, self.outputs[0].finish_reason or "stop")
        finally:
            self.close()

    def _delta(self, event: Event) -> Delta | None:
        sequence = self._sequences.get(event.sequence)
        if sequence is None:
            detokenizer = Detokenizer(self._tokenizer, self.stream.request.prompt_token_ids)
            sequence = _Sequence(detokenizer, StopStrings(self._stop_strings))
            self._sequences[event.sequence] = sequence
        if sequence.has_ended():
            return None  # generated before the engine stopped the sequence
        if isinstance(event, Token):
            text = sequence.add(event)
            if sequence.has_ended():
                self.stream.stop_sequence(event.sequence)
        else:
            text = sequence.finish(event.reason)
        if not text and not sequence.has_ended():
            return None
        return Delta(event.sequence, text, sequence.take_tokens(), sequence.output.finish_reason)


class _Sequence:
    """One sequence of the output and its decoders."""

    def __init__(self, detokenizer: Detokenizer, stop_strings: StopStrings) -> None:
        self.output = Output()
        self._detokenizer = detokenizer
        self._stop_strings = stop_strings
        self._new_tokens: list[Token] = []

    def has_ended(self) -> bool:
        """Return whether the sequence is complete."""
        return self.output.finish_reason is not None

    def add(self, token: Token) -> str:
        """Add a token and return its text, as far as it is certain; a stop string ends the sequence."""
        self.output.tokens.append(token)
        self._new_tokens.append(token)
        return self._emit(self._detokenizer.add(token.token_id))

    def finish(self, reason: FinishReason) -> str:
        """End the sequence and return the remaining text."""
        text = self._emit(self._detokenizer.flush())
        if not self.has_ended():
            rest = self._stop_strings.flush()
            self.output.text += rest
            self.output.finish_reason = reason
            text += rest
        return text

    def take_tokens(self) -> list[Token]:
        """Return the tokens that were added since the last call."""
        tokens, self._new_tokens = self._new_tokens, []
        return tokens

    def _emit(self, text: str) -> str:
        emitted = self._stop_strings.add(text)
        if self._stop_strings.matched:
            self.output.finish_reason = "stop"
        self.output.text += emitted
        return emitted
