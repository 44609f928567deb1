"""Foretells when a refused request would find a place: from what those let in ask for, and the measured pace."""

import heapq
import math
import statistics
import time
from collections.abc import Sequence

import torch

from app.engine.kv_cache import KeyValueCache, whole_blocks
from app.engine.model_runner.eager import Span
from app.engine.request import Generation
from app.engine.scheduler import PROMPT_TOKENS, Decode

# Weight of the newest request in averages.
NEWEST = 0.1
# Refused requests that are told a time of their own; those beyond are told the last one's.
PROMISES = 512
# A refused request may come back so long after it was told to, before its place is given to another.
GRACE_SECONDS = 5.0


class Forecast:
    """When places will be free.

    Args:
        concurrency: sequences that the batched lane generates at once.
        cache_tokens: that all of them share.
        seconds_per_step: of a step with all of them.
    """

    def __init__(self, concurrency: int, cache_tokens: int, seconds_per_step: float) -> None:
        self._concurrency = concurrency
        self._cache_tokens = cache_tokens
        self._least = seconds_per_step
        self._pace = {"batched": seconds_per_step, "reference": seconds_per_step}
        # Answers mostly end before the limit that the request sets.
        self._share = 1.0
        # When each was told to come back, in the order in which they are to find a place.
        self._promises: list[float] = []

    def admitted(self) -> None:
        """Take a request that is let in for the first that was told to come back by now."""
        if (place := self._due(time.monotonic())) is not None:
            del self._promises[place]

    def ended(self, generation: Generation) -> None:
        """Learn from a request that has ended."""
        if generation.started is None or not generation.tokens:
            return
        steps = _prompt_steps(generation) + generation.tokens / _sequences(generation)
        pace = (time.monotonic() - generation.started) / steps
        self._pace[generation.lane] += NEWEST * (pace - self._pace[generation.lane])
        if not generation.cancelled:
            share = generation.tokens / _sequences(generation) / generation.request.max_new_tokens
            self._share += NEWEST * (share - self._share)

    def promise(self, let_in: Sequence[Generation]) -> int:
        """Return the whole seconds, at least 1, until there is a place for one more, beside those promised one before.

        One that comes when another was told to come back is taken for that one: it finds no place since the forecast
        was wrong, and is promised the next.

        Args:
            let_in: the requests that run or wait, in order of arrival.
        """
        now = time.monotonic()
        self._promises = [due for due in self._promises if due > now - GRACE_SECONDS]
        place = self._due(now)
        if place is None:
            place = len(self._promises)
        lengths = [whole_blocks(each.request.max_length) for each in let_in if each.lane == "batched"]
        fit = int(self._cache_tokens / statistics.mean(lengths)) if lengths else self._concurrency
        free = {"batched": [0.0] * max(1, min(self._concurrency, fit)), "reference": [0.0]}
        ends, works = [], []
        for generation in let_in:
            # What was measured of a lone request says little of a full lane.
            pace = max(self._least, self._pace[generation.lane])
            steps = _prompt_steps(generation) + self._share * generation.request.max_new_tokens
            done = generation.tokens / _sequences(generation)
            work = pace * max(1.0, steps - done)
            works.append(pace * steps)
            ends.append(max(_take(free[generation.lane], work) for _ in range(_sequences(generation))))
        ends += [_take(free["batched"], statistics.mean(works or [0.0]), due - now) for due in self._promises]
        seconds = max(1, math.ceil(sorted(ends)[min(place, len(ends) - 1)])) if ends else 1
        if place < PROMISES:
            self._promises[place : place + 1] = [now + seconds]
        return seconds

    def _due(self, now: float) -> int | None:
        """Which of the promises is the first that is due."""
        return next((place for place, due in enumerate(self._promises) if due <= now), None)


def _take(slots: list[float], work: float, arrival: float = 0.0) -> float:
    """Give `work` that comes at `arrival` to the slot that is free first, and return when it is done."""
    end = max(slots[0], arrival) + work
    heapq.heapreplace(slots, end)
    return end


def _sequences(generation: Generation) -> int:
    """Sequences that are put out: beams come together in one step."""
    return generation.request.kwargs.num_return_sequences


def _prompt_steps(generation: Generation) -> float:
    return (len(generation.request.prompt_ids) - generation.cached_tokens) / PROMPT_TOKENS


def seconds_per_step(decode: Decode, cache: KeyValueCache, concurrency: int) -> float:
    """Seconds that a step of `concurrency` sequences takes, or of as many as there is room for: the best of three."""
    extents = [extent for _ in range(concurrency) if (extent := cache.reserve(1))]
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            # Scores come to the CPU as those of a step do, so that a GPU's work is waited for.
            decode([Span([0], 0, extent.start, False, True) for extent in extents]).sum().item()
            best = min(best, time.perf_counter() - started)
    for extent in extents:
        cache.release(extent)
    return best
