"""Checks at startup what this machine computes: the same bits in every batch, and the same logits in every runner."""

import itertools
from dataclasses import dataclass

import torch

from app.engine.batch import ModelRunner, ScheduledChunk
from app.engine.kv_cache.manager import KVCacheManager
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class _Batch:
    """The requests next to a probe in one step, as far as the cache holds them.

    Attributes:
        before: decoding sequences in front of the probe.
        after: decoding sequences behind the probe.
        length: tokens of each of those sequences.
        prefill: tokens of one more prompt, which comes first.
    """

    before: int = 0
    after: int = 0
    length: int = 1
    prefill: int = 0


class Probe:
    """A request that runs alone and in several batches.

    Args:
        cache: of the runners; nothing else uses it.
        vocab_size: of the model.
    """

    def __init__(self, cache: KVCacheManager, vocab_size: int) -> None:
        self._cache = cache
        self._vocab_size = vocab_size
        generator = torch.Generator().manual_seed(0)
        # More than one block, if the cache holds that many, and one more token.
        size = min(BLOCK_SIZE + 5, cache.num_slots - 1)
        self._token_ids: list[int] = torch.randint(vocab_size, (size + 1,), generator=generator).tolist()

    def is_batch_invariant(self, runner: ModelRunner, max_concurrency: int, max_prefill_tokens: int) -> bool:
        """Return whether the logits have the same bits alone and in several batches.

        GEMM kernels depend on the number of rows, attention kernels on the sequences that share a call.
        """
        others = max_concurrency - 1
        prefill = min(max_prefill_tokens - BLOCK_SIZE, self._cache.num_slots // BLOCK_SIZE // 4 * BLOCK_SIZE)
        befores = {before for before in (0, 1, 2, others // 2, others) if before <= others}
        batches = [_Batch(before, others - before) for before in befores]
        batches += [_Batch(1), _Batch(after=2), _Batch(prefill=prefill), _Batch(1, prefill=prefill)]
        # As long as the probe, so that one call computes the attention of all.
        batches += [_Batch(others // 2, others - others // 2, length=len(self._token_ids))]
        alone = self._logits(runner, _Batch())
        return all(torch.equal(alone, self._logits(runner, batch)) for batch in batches)

    def relative_error(self, runner: ModelRunner, other: ModelRunner) -> float:
        """Return the norm of the difference of two runners' logits over the norm of the first one's."""
        expected, actual = (self._logits(each, _Batch()) for each in (runner, other))
        return float((expected - actual).norm() / expected.norm())

    def _logits(self, runner: ModelRunner, batch: _Batch) -> torch.Tensor:
        """Return the logits after each prefill chunk of the probe and after its decode token, each in its own step."""
        prompt, own = self._cache.reserve(batch.prefill), self._cache.reserve(len(self._token_ids))
        if own is None or prompt is None:
            raise RuntimeError("the cache is in use")
        reserved = [slots for _ in range(batch.before + batch.after) if (slots := self._cache.reserve(batch.length))]
        before = min(batch.before, len(reserved))
        decode = [
            _chunk([number % self._vocab_size], batch.length - 1, slots.start) for number, slots in enumerate(reserved)
        ]
        prefill = [
            _chunk([1] * (min(start + BLOCK_SIZE, batch.prefill) - start), start, prompt.start, wants_logits=False)
            for start in range(0, batch.prefill, BLOCK_SIZE)
        ]
        length = len(self._token_ids)
        cuts = [*range(0, length - 1, BLOCK_SIZE), length - 1, length]
        chunks = [_chunk(self._token_ids[start:end], start, own.start) for start, end in itertools.pairwise(cuts)]
        rows = [runner([*prefill, *decode[:before], chunk, *decode[before:]])[before].clone() for chunk in chunks]
        for slots in [*reserved, own, prompt]:
            self._cache.release(slots)
        return torch.stack(rows)


def _chunk(token_ids: list[int], position: int, first_slot: int, *, wants_logits: bool = True) -> ScheduledChunk:
    return ScheduledChunk(token_ids, position, first_slot, use_long_factors=False, wants_logits=wants_logits)
