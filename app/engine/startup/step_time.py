"""Measures a step at startup, for the first estimates of `Retry-After`."""

import time

import torch

from app.engine.batch import ModelRunner, ScheduledChunk
from app.engine.kv_cache.manager import KVCacheManager


def benchmark_step(runner: ModelRunner, cache: KVCacheManager, max_concurrency: int) -> float:
    """Return the seconds of a step with as many sequences as run at once or fit into the cache, the best of 3."""
    reserved = [slots for _ in range(max_concurrency) if (slots := cache.reserve(1))]
    chunks = [ScheduledChunk([0], 0, slots.start, use_long_factors=False, wants_logits=True) for slots in reserved]
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            # item waits for the GPU, as sampling does.
            runner(chunks).sum().item()
            best = min(best, time.perf_counter() - started)
    for slots in reserved:
        cache.release(slots)
    return best
