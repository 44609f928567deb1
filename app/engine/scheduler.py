"""Continuous batching: decides which sequences run, what each step computes, and what a sampled token leads to.

The scheduler starts no thread and runs no model; `app.engine.loop` calls it.
"""

import collections
import itertools
import time
from dataclasses import dataclass

from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk
from app.engine.exceptions import InvalidLogitsError, internal_error
from app.engine.kv_cache.manager import KVCacheManager
from app.engine.kv_cache.slot_allocator import SlotRange
from app.engine.sampling.sampler import SampledToken, Sampler, seed_of
from app.engine.sequence import QueuedSequence, Sequence
from app.engine.stream import Finished, FinishReason, RequestStream, Token
from app.logs import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step.

    Attributes:
        max_concurrency: sequences that run at once.
        max_prefill_tokens: prompt tokens of a step, next to one token of each decoding sequence.
        one_sequence_per_pass: whether each sequence has a forward pass of its own.
    """

    max_concurrency: int
    max_prefill_tokens: int
    one_sequence_per_pass: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: sequences, each with its chunks in order."""

    scheduled: list[tuple[Sequence, list[ScheduledChunk]]]

    @property
    def chunks(self) -> list[ScheduledChunk]:
        """All chunks, in the order of the sequences."""
        return list(itertools.chain.from_iterable(chunks for _, chunks in self.scheduled))

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences."""
        return [sequence for sequence, _ in self.scheduled]

    @property
    def sampling(self) -> list[Sequence]:
        """The sequences that sample a token after the pass, in the order of the logits."""
        return [sequence for sequence, chunks in self.scheduled if chunks[-1].wants_logits]


class Scheduler:
    """Schedules requests, first come, first served. It is not thread-safe.

    A sequence starts once the KV cache can hold its maximum length, so no sequence is ever preempted.

    Args:
        model: its logits processors are used.
        cache: slots for the sequences.
        config: limits of a step.

    Attributes:
        queued: sequences that wait for slots.
        running: sequences that have slots.
    """

    def __init__(self, model: Phi3ForCausalLM, cache: KVCacheManager, config: SchedulerConfig) -> None:
        self._model = model
        self._cache = cache
        self._config = config
        rope = model.config.rope_parameters or {}
        longrope = rope.get("rope_type") == "longrope"
        # Longer sequences use LongRoPE's long factors, so all their keys are recomputed.
        self._short_factor_length = rope["original_max_position_embeddings"] if longrope else None
        self.queued: collections.deque[QueuedSequence] = collections.deque()
        self.running: list[Sequence] = []

    def add(self, stream: RequestStream) -> None:
        """Queue a request."""
        self.queued.append(QueuedSequence(stream, 0, seed_of(stream.request.params)))

    def streams(self) -> list[RequestStream]:
        """Return the stream of every running and queued sequence."""
        return [running.stream for running in self.running] + [queued.stream for queued in self.queued]

    def drop_cancelled(self) -> None:
        """Remove sequences that nobody waits for."""
        for queued in [queued for queued in self.queued if queued.stream.cancelled]:
            self.queued.remove(queued)
            queued.stream.close(None)
        for sequence in [each for each in self.running if not each.stream.is_wanted(each.index)]:
            self._remove(sequence)
            self._close_if_last(sequence.stream)

    def start_queued(self) -> None:
        """Start queued sequences while there are slots."""
        while self.queued and len(self.running) < self._config.max_concurrency:
            stream = self.queued[0].stream
            slots = self._cache.reserve(stream.request.max_length)
            if slots is None:
                return
            queued = self.queued.popleft()
            try:
                self.running.append(self._start(queued, slots))
            except Exception:
                log.exception("could not start a request", request_id=stream.request.id)
                self._cache.release(slots)
                stream.close(internal_error())
                stream.cancel()

    def groups(self) -> list[list[Sequence]]:
        """Return the running sequences by forward pass."""
        if self._config.one_sequence_per_pass:
            return [[sequence] for sequence in self.running]
        return [list(self.running)]

    def schedule(self, sequences: list[Sequence]) -> Step:
        """Choose what the next pass computes of `sequences`, leaving out those that ended meanwhile."""
        scheduled = []
        token_budget = self._config.max_prefill_tokens
        for sequence in sequences:
            if sequence in self.running and (chunks := sequence.next_chunks(token_budget)):
                scheduled.append((sequence, chunks))
                if sequence.is_prefill:
                    token_budget -= sum(chunk.num_tokens for chunk in chunks)
        return Step(scheduled)

    def mark_computed(self, step: Step) -> None:
        """Record that the keys and values of `step` are in the cache."""
        for sequence, chunks in step.scheduled:
            sequence.num_computed = chunks[-1].end
            prompt = sequence.stream.request.prompt_token_ids
            if not sequence.prefix_cached and sequence.num_computed == sequence.length == len(prompt):
                sequence.prefix_cached = True
                self._cache.cache_prefix(sequence.slots, prompt, sequence.use_long_factors)

    def process(self, sequence: Sequence, result: SampledToken | InvalidLogitsError) -> None:
        """Append a sampled token to its sequence, or fail its request."""
        if isinstance(result, InvalidLogitsError):
            self.fail(sequence, result)
        elif sequence in self.running:
            self._append(sequence, result)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """End the request of `sequence` with `error`."""
        stream = sequence.stream
        for queued in [each for each in self.queued if each.stream is stream]:
            self.queued.remove(queued)
        for running in [each for each in self.running if each.stream is stream]:
            self._remove(running)
        stream.close(error)

    def _start(self, queued: QueuedSequence, slots: SlotRange) -> Sequence:
        stream = queued.stream
        if stream.started_at is None:
            stream.started_at = time.monotonic()
        sampler = Sampler(self._model, stream.request, queued.index, queued.seed)
        sequence = Sequence(queued, sampler, slots)
        if self._short_factor_length is not None:
            sequence.use_long_factors = sequence.length > self._short_factor_length
        sequence.num_computed = self._cache.copy_prefix(slots, sampler.token_ids, sequence.use_long_factors)
        if queued.index == 0:
            stream.num_cached_tokens = sequence.num_computed
        return sequence

    def _append(self, sequence: Sequence, sampled: SampledToken) -> None:
        stream, request = sequence.stream, sequence.stream.request
        is_first_token = sequence.length == len(request.prompt_token_ids)
        sequence.sampler.append(sampled.token_id)
        stream.put(Token(sequence.index, sampled.token_id, sampled.logprobs))
        if sequence.index == 0 and is_first_token:
            # The other sequences start now, because they copy the prompt that the first one computed.
            others = range(1, request.params.n)
            self.queued.extendleft(QueuedSequence(stream, index, sequence.queued.seed) for index in reversed(others))
        if self._short_factor_length is not None and sequence.length == self._short_factor_length + 1:
            self._cache.invalidate_prefix(sequence.slots)
            sequence.use_long_factors, sequence.num_computed = True, 0
        reason: FinishReason | None = "length" if sequence.length >= request.max_length else None
        if sampled.token_id in request.params.eos_token_ids:
            reason = "stop"
        if reason:
            stream.put(Finished(sequence.index, reason))
            self._remove(sequence)
            self._close_if_last(stream)

    def _close_if_last(self, stream: RequestStream) -> None:
        if stream not in self.streams():
            stream.close(None)

    def _remove(self, sequence: Sequence) -> None:
        self._cache.release(sequence.slots)
        self.running.remove(sequence)
