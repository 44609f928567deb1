"""Reads an answer while it is generated: its text, why it ended, what it took."""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from werkzeug.exceptions import ClientDisconnected

from app.engine.stream import Event, FinishReason, RequestStream, Token
from app.metrics import Metrics
from app.tokenizer import Detokenizer, Tokenizer

# Seconds between looks at whether the client is still there.
POLL_SECONDS = 0.25


class TimedOutError(Exception):
    """An answer took longer than it may."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sequence of an answer gained: text, the tokens since the last piece, and at its end the reason."""

    sequence: int
    text: str
    tokens: list[Token]
    reason: FinishReason | None


@dataclass(slots=True)
class Answer:
    """One sequence of an answer, as far as it was read; `reason` is None while it goes on."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    reason: FinishReason | None = None


class Reader:
    """Reads one answer, for one request over HTTP.

    Args:
        generation: the answer.
        tokenizer: of the model.
        metrics: where the answer is counted.
        connection: to the client; an answer that nobody waits for is cancelled. None where there is none to look at.
        seconds: that the answer may take; it is then cancelled.
        stops: texts at which a sequence ends; they are left out.
    """

    def __init__(
        self,
        generation: RequestStream,
        tokenizer: Tokenizer,
        metrics: Metrics,
        connection: socket.socket | None,
        seconds: float,
        stops: Sequence[str] = (),
    ) -> None:
        self.generation = generation
        self._seconds = seconds
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._connection = connection
        self._stops = stops
        self._sequences: dict[int, _Sequence] = {}

    def whole(self) -> list[Answer]:
        """Read to the end, and return the sequences in order; see `pieces` for what is raised."""
        for _ in self._pieces(from_its_end=not self._stops):
            pass
        return self.answers

    @property
    def answers(self) -> list[Answer]:
        """The sequences in order, as far as they were read."""
        return [self._sequences[number].answer for number in sorted(self._sequences)]

    def pieces(self) -> Iterator[Piece | None]:
        """Yield what arrives, and None every POLL_SECONDS where nothing does; the generation ends with the iterator.

        Raises:
            InvalidLogitsError: see there.
            EngineError: the generation failed.
            ClientDisconnected: nobody waits for the answer any more.
            TimedOutError: the answer took longer than it may.
        """
        yield from self._pieces(from_its_end=False)

    def _pieces(self, *, from_its_end: bool) -> Iterator[Piece | None]:
        try:
            # Waking for every token would take the interpreter from the engine.
            while from_its_end and not self.generation.wait(POLL_SECONDS):
                self._check()
            looked = time.monotonic()
            for event in self.generation.events(POLL_SECONDS):
                if time.monotonic() - looked >= POLL_SECONDS:
                    self._check()
                    looked = time.monotonic()
                piece = self._read(event) if event else None
                if piece or not event:
                    yield piece
            self._metrics.served(self.generation, self.answers[0].reason or "stop")
        finally:
            self.generation.cancel()
            self._metrics.took(self.generation)

    def _read(self, event: Event) -> Piece | None:
        sequence = self._sequences.get(event.sequence)
        if sequence is None:
            sequence = _Sequence(Detokenizer(self._tokenizer, self.generation.request.prompt_token_ids), self._stops)
            self._sequences[event.sequence] = sequence
        if sequence.ended():
            return None  # generated before the lane heard that it is complete
        if isinstance(event, Token):
            text = sequence.add(event)
            if sequence.ended():
                self.generation.stop_sequence(event.sequence)
        else:
            text = sequence.end(event.reason)
        if not text and not sequence.ended():
            return None
        return Piece(event.sequence, text, sequence.take_tokens(), sequence.answer.reason)

    def _check(self) -> None:
        """Raise where there is no use in going on."""
        if time.monotonic() - self.generation.submitted_at > self._seconds:
            raise TimedOutError(
                f"The answer was not complete after the {self._seconds:g} s that it may take (X-Request-Timeout, and "
                "the server's CHAT_MAX_REQUEST_SECONDS): ask for fewer tokens, or allow more time."
            )
        if self._connection is None:
            return
        try:
            # Bytes that wait there mean that it has not gone.
            gone = self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            raise ClientDisconnected("The client closed the connection.")


class _Sequence:
    """A sequence of an answer, and what of its text may yet turn out to be the beginning of a stop."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self.answer = Answer()
        self._detokenizer = detokenizer
        self._stops = stops
        self._held = ""
        self._new: list[Token] = []

    def ended(self) -> bool:
        """Whether it is complete."""
        return self.answer.reason is not None

    def add(self, token: Token) -> str:
        """Take a token, and return the text that is certain by now; a stop in it ends the sequence."""
        self.answer.tokens.append(token)
        self._new.append(token)
        return self._put_out(self._detokenizer.add(token.token_id))

    def end(self, reason: FinishReason) -> str:
        """End the sequence, and return the rest of its text."""
        text = self._put_out(self._detokenizer.end())
        if not self.ended():
            text += self._held
            self.answer.text += self._held
            self.answer.reason = reason
        return text

    def take_tokens(self) -> list[Token]:
        """The tokens since the last call."""
        tokens, self._new = self._new, []
        return tokens

    def _put_out(self, text: str) -> str:
        held = self._held + text
        found = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if found:
            self.answer.reason = "stop"
        size = min(found) if found else len(held) - self._open(held)
        self._held = held[size:]
        self.answer.text += held[:size]
        return held[:size]

    def _open(self, text: str) -> int:
        """Characters at the end of `text` that a stop begins with."""
        sizes = (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
