"""Slots and cached prefixes."""

import pytest
import torch

from app.engine.kv_cache.manager import KVCacheManager
from app.engine.kv_cache.prefix_index import block_hashes
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, SlotRange
from app.engine.kv_cache.storage import KVCacheShape, KVStorage

PROMPT = list(range(3 * BLOCK_SIZE + 10))


@pytest.fixture
def cache() -> KVCacheManager:
    shape = KVCacheShape(num_layers=2, num_kv_heads=3, head_dim=4, num_slots=10 * BLOCK_SIZE)
    return KVCacheManager(KVStorage(shape, torch.float32, torch.device("cpu")))


def reserve(cache: KVCacheManager, size: int) -> SlotRange:
    slots = cache.reserve(size)
    assert slots is not None
    return slots


def fill(cache: KVCacheManager, slots: SlotRange, length: int) -> None:
    """Write different numbers for every token, layer and head."""
    rows = torch.arange(slots.start, slots.start + length)
    for layer in range(2):
        numbers = torch.arange(length * 12, dtype=torch.float32).view(length, 3, 4) + 1000 * layer
        cache.storage.write(layer, rows, torch.cat([numbers, -numbers], dim=1))


def test_reserved_ranges_do_not_overlap_and_are_free_after_release(cache: KVCacheManager) -> None:
    ranges = [reserve(cache, size) for size in (100, 1, 200, 64)]
    slots = [slot for each in ranges for slot in range(each.start, each.end)]
    assert len(slots) == len(set(slots)) == cache.num_reserved == 8 * BLOCK_SIZE
    for each in (ranges[2], ranges[0], ranges[3], ranges[1]):
        cache.release(each)
    assert cache.num_reserved == 0
    whole = reserve(cache, cache.num_slots)
    assert (whole.start, whole.size) == (0, cache.num_slots)


def test_full_cache_reserves_nothing(cache: KVCacheManager) -> None:
    slots = reserve(cache, cache.num_slots)
    assert cache.reserve(1) is None
    cache.release(slots)
    assert cache.reserve(1) is not None


def test_storage_reads_what_was_written(cache: KVCacheManager) -> None:
    reserve(cache, 5)
    slots = reserve(cache, 20)
    fill(cache, slots, 20)
    keys, values, later_keys, later_values = cache.storage.read(slots.start + 2, 2)
    assert keys.shape == (1, 3, 2, 4)
    assert keys[0, 1, 0].tolist() == [28, 29, 30, 31]
    assert torch.equal(values, -keys)
    assert torch.equal(later_keys, keys + 1000)
    assert torch.equal(later_values, -later_keys)


def test_whole_blocks_of_a_cached_prefix_are_copied_while_its_request_runs_and_afterwards(
    cache: KVCacheManager,
) -> None:
    first = reserve(cache, len(PROMPT) + 5)
    fill(cache, first, len(PROMPT))
    cache.cache_prefix(first, PROMPT, use_long_factors=False)
    for released in (False, True):
        if released:
            cache.release(first)
        second = reserve(cache, len(PROMPT) + 5)
        assert cache.copy_prefix(second, PROMPT, use_long_factors=False) == 3 * BLOCK_SIZE
        for copied, original in zip(
            cache.storage.read(second.start, 3 * BLOCK_SIZE),
            cache.storage.read(first.start, 3 * BLOCK_SIZE),
            strict=True,
        ):
            assert torch.equal(copied, original)
        cache.release(second)


@pytest.mark.parametrize(
    ("prompt", "use_long_factors", "num_copied"),
    [
        (PROMPT, True, 0),
        ([-1, *PROMPT[1:]], False, 0),
        (PROMPT[: 2 * BLOCK_SIZE] + [7] * BLOCK_SIZE, False, 2 * BLOCK_SIZE),
        (PROMPT[: 2 * BLOCK_SIZE - 1] + [7] * BLOCK_SIZE, False, BLOCK_SIZE),
        (PROMPT[: 2 * BLOCK_SIZE], False, BLOCK_SIZE),
        (PROMPT[: 2 * BLOCK_SIZE + 1], False, 2 * BLOCK_SIZE),
        (PROMPT[:5], False, 0),
    ],
    ids=["other factors", "other start", "other third", "other end of the second", "last token", "one more", "short"],
)
def test_prefix_copy_ends_at_the_first_difference(
    cache: KVCacheManager, prompt: list[int], use_long_factors: bool, num_copied: int
) -> None:
    first = reserve(cache, len(PROMPT))
    cache.cache_prefix(first, PROMPT, use_long_factors=False)
    assert cache.copy_prefix(reserve(cache, len(prompt)), prompt, use_long_factors) == num_copied


def test_least_recently_used_prefix_is_evicted_first(cache: KVCacheManager) -> None:
    prompts = [[number] * 2 * BLOCK_SIZE + [1] for number in range(3)]
    for prompt in prompts:
        slots = reserve(cache, len(prompt))
        cache.cache_prefix(slots, prompt, use_long_factors=False)
        cache.release(slots)
    assert cache.num_reserved == 0
    slots = reserve(cache, len(prompts[0]))
    for prompt in prompts[:2]:
        assert cache.copy_prefix(slots, prompt, use_long_factors=False) == 2 * BLOCK_SIZE
    cache.release(slots)
    big = reserve(cache, 5 * BLOCK_SIZE)
    copied = [cache.copy_prefix(big, prompt, use_long_factors=False) // BLOCK_SIZE for prompt in prompts]
    assert copied == [2, 2, 0]
    cache.release(big)
    whole = reserve(cache, cache.num_slots)
    assert all(cache.copy_prefix(whole, prompt, use_long_factors=False) == 0 for prompt in prompts)


def test_block_hash_covers_all_preceding_tokens() -> None:
    one, other = ([first, *PROMPT[1:]] for first in (0, 1))
    assert not set(block_hashes(one, use_long_factors=False)) & set(block_hashes(other, use_long_factors=False))
    assert len(list(block_hashes(PROMPT, use_long_factors=False))) == 3
