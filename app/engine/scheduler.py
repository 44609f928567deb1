"""The batched lane: every step takes all sequences one token further, and what each gets depends on itself alone."""

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import BLOCK, Extent, KeyValueCache
from app.engine.model_runner.eager import Span
from app.engine.request import Finished, FinishReason, Generation, InvalidScoresError, Token, failure
from app.engine.sampling.sampler import Choice, Chooser, choose, seed_of
from app.logs import logger

log = logger(__name__)

# Tokens of prompts that one step takes, beside one token of every sequence that is beyond its prompt.
PROMPT_TOKENS = 256

Decode = Callable[[list[Span]], torch.Tensor]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A sequence that waits for room: the first of its request, or a further one whose prompt has been computed."""

    generation: Generation
    number: int
    seed: int


@dataclass(slots=True, eq=False)
class _Sequence:
    """A sequence that is being generated."""

    generation: Generation
    number: int
    seed: int
    chooser: Chooser
    extent: Extent
    computed: int = 0  # tokens whose keys and values are in the cache
    long: bool = False
    published: bool = False

    @property
    def length(self) -> int:
        return len(self.chooser.ids)


class BatchedLane:
    """Generates for many requests at once, on one thread.

    Args:
        model: whose logits processors are used.
        decode: see `app.engine.model_runner.eager.Decoder`.
        cache: where `decode` puts keys and values.
        concurrency: sequences at once.
        together: whether sequences share a pass, rather than take one each.
    """

    def __init__(
        self, model: Phi3ForCausalLM, decode: Decode, cache: KeyValueCache, concurrency: int, together: bool = True
    ) -> None:
        self._model = model
        self._decode = decode
        self._cache = cache
        self._concurrency = concurrency
        self._together = together
        rope = model.config.rope_parameters or {}
        # Beyond so many tokens a sequence is rotated by other factors, and computed anew.
        self._crossing = rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else None
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._sequences: list[_Sequence] = []
        self._changed = threading.Condition()
        self._stepped = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="batched", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Queue `generation`; see `app.engine.engine.Lane`, also for what follows."""
        with self._changed:
            if not self._sequences:
                self._stepped = time.monotonic()
            self._waiting.append(_Waiting(generation, 0, seed_of(generation.request.kwargs)))
            self._changed.notify()

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return len({id(sequence.generation) for sequence in list(self._sequences)})

    @property
    def waiting(self) -> int:
        """Requests of which nothing runs yet."""
        with self._changed:
            return sum(not waiting.generation.cancelled for waiting in self._waiting if waiting.number == 0)

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last step."""
        return time.monotonic() - self._stepped if self._sequences or self._waiting else 0.0

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while True:
                    self._turn()
        finally:
            for generation in self._generations():
                generation.end(failure())

    def _turn(self) -> None:
        """Wait for work, and take every sequence one pass further."""
        with self._changed:
            while not self._sequences and not self._waiting:
                self._changed.wait()
            self._drop_unwanted()
            self._admit()
        passes = [list(self._sequences)] if self._together else [[sequence] for sequence in self._sequences]
        for sequences in passes:
            left = [sequence for sequence in sequences if sequence in self._sequences]
            if left:
                self._step(left)
            self._stepped = time.monotonic()

    def _generations(self) -> list[Generation]:
        """The request of every sequence that runs or waits."""
        with self._changed:
            return [s.generation for s in self._sequences] + [w.generation for w in self._waiting]

    def _drop_unwanted(self) -> None:
        for waiting in [waiting for waiting in self._waiting if waiting.generation.cancelled]:
            self._waiting.remove(waiting)
            waiting.generation.end(None)
        for sequence in [s for s in self._sequences if not s.generation.wanted(s.number)]:
            self._remove(sequence)
            self._end_if_last(sequence.generation)

    def _admit(self) -> None:
        """Give room to those that wait, first come first served."""
        while self._waiting and len(self._sequences) < self._concurrency:
            waiting = self._waiting[0]
            request = waiting.generation.request
            extent = self._cache.reserve(request.max_length)
            if extent is None:
                return
            self._waiting.popleft()
            try:
                self._sequences.append(self._start(waiting, extent))
            except Exception:
                log.exception("a request could not be started", request_id=request.id)
                self._cache.release(extent)
                waiting.generation.end(failure())
                waiting.generation.cancel()

    def _start(self, waiting: _Waiting, extent: Extent) -> _Sequence:
        if waiting.generation.started is None:
            waiting.generation.started = time.monotonic()
        chooser = Chooser(self._model, waiting.generation.request, waiting.number, waiting.seed)
        sequence = _Sequence(waiting.generation, waiting.number, waiting.seed, chooser, extent)
        sequence.long = self._crossing is not None and sequence.length > self._crossing
        sequence.computed = self._cache.share(extent, chooser.ids, sequence.long)
        if waiting.number == 0:
            waiting.generation.cached_tokens = sequence.computed
        return sequence

    def _step(self, sequences: list[_Sequence]) -> None:
        """Take `sequences` one pass further; where that fails, those of the pass fail and no others."""
        spans: list[Span] = []
        taken: list[_Sequence] = []
        room = PROMPT_TOKENS
        for sequence in sequences:
            own = _spans(sequence, room)
            if not own:
                continue
            spans += own
            taken.append(sequence)
            if sequence.length - sequence.computed > 1:
                room -= sum(len(span.ids) for span in own)
        try:
            logits = self._decode(spans)
            ends = {span.start: span.end for span in spans}
            scored = []
            for sequence in taken:
                sequence.computed = ends[sequence.extent.start]
                if sequence.computed == sequence.length:
                    self._publish(sequence)
                    scored.append(sequence)
            choices = choose(logits, [sequence.chooser for sequence in scored])
        except Exception:
            log.exception("a step failed", request_ids=[sequence.generation.request.id for sequence in taken])
            for sequence in taken:
                self._fail(sequence, failure())
            return
        for sequence, choice in zip(scored, choices, strict=True):
            if isinstance(choice, InvalidScoresError):
                self._fail(sequence, choice)
            else:
                self._take(sequence, choice)

    def _take(self, sequence: _Sequence, choice: Choice) -> None:
        """Go on with the token that was chosen, or end."""
        if sequence not in self._sequences:
            return
        generation, request = sequence.generation, sequence.generation.request
        sequence.chooser.append(choice.token)
        generation.put(Token(sequence.number, choice.token, choice.scores))
        if sequence.number == 0 and sequence.length == len(request.prompt_ids) + 1:
            # Only now, since they share the prompt that the first one computed.
            further = range(1, request.kwargs.num_return_sequences)
            with self._changed:
                self._waiting.extendleft(_Waiting(generation, number, sequence.seed) for number in reversed(further))
        if self._crossing is not None and sequence.length == self._crossing + 1:
            self._cache.withdraw(sequence.extent)
            sequence.long, sequence.computed = True, 0
        reason: FinishReason | None = "length" if sequence.length >= request.max_length else None
        if choice.token in request.eos_token_ids:
            reason = "stop"
        if reason:
            generation.put(Finished(sequence.number, reason))
            self._remove(sequence)
            self._end_if_last(generation)

    def _publish(self, sequence: _Sequence) -> None:
        if not sequence.published and sequence.computed == len(sequence.generation.request.prompt_ids):
            sequence.published = True
            self._cache.publish(sequence.extent, sequence.chooser.ids, sequence.long)

    def _fail(self, sequence: _Sequence, error: Exception) -> None:
        """End the request that `sequence` belongs to with `error`."""
        with self._changed:
            for waiting in [w for w in self._waiting if w.generation is sequence.generation]:
                self._waiting.remove(waiting)
        for other in [s for s in self._sequences if s.generation is sequence.generation]:
            self._remove(other)
        sequence.generation.end(error)

    def _end_if_last(self, generation: Generation) -> None:
        """End a request of which no sequence runs or waits any more."""
        if generation not in self._generations():
            generation.end(None)

    def _remove(self, sequence: _Sequence) -> None:
        self._cache.release(sequence.extent)
        self._sequences.remove(sequence)


def _spans(sequence: _Sequence, room: int) -> list[Span]:
    """What of `sequence` the next step computes: its newest token, or blocks of its prompt in `room` tokens."""
    spans: list[Span] = []
    start = sequence.computed
    while start < sequence.length:
        end = min(sequence.length, (start // BLOCK + 1) * BLOCK)
        if sequence.length - sequence.computed > 1 and end - sequence.computed > max(room, 0):
            break
        spans.append(
            Span(
                sequence.chooser.ids[start:end],
                start,
                sequence.extent.start,
                sequence.long,
                end == sequence.length,
            )
        )
        start = end
    return spans
