"""The cache of keys and values."""

import pytest
import torch

from app.engine.kv_cache import BLOCK, Extent, KeyValueCache, block_names

PROMPT = list(range(3 * BLOCK + 10))


@pytest.fixture
def cache() -> KeyValueCache:
    return KeyValueCache(2, 3, 4, 10 * BLOCK, torch.float32, torch.device("cpu"))


def reserve(cache: KeyValueCache, size: int) -> Extent:
    extent = cache.reserve(size)
    assert extent is not None
    return extent


def fill(cache: KeyValueCache, extent: Extent, length: int) -> None:
    """Write numbers of its own for every token, layer and head."""
    slots = torch.arange(extent.start, extent.start + length)
    for layer in range(2):
        numbers = torch.arange(length * 12, dtype=torch.float32).view(length, 3, 4) + 1000 * layer
        cache.write(layer, slots, torch.cat([numbers, -numbers], dim=1))


def test_extents_do_not_overlap_and_come_back(cache: KeyValueCache) -> None:
    extents = [reserve(cache, size) for size in (100, 1, 200, 64)]
    places = [place for extent in extents for place in range(extent.start, extent.start + extent.size)]
    assert len(places) == len(set(places)) == cache.reserved == 8 * BLOCK
    for extent in (extents[2], extents[0], extents[3], extents[1]):
        cache.release(extent)
    assert cache.reserved == 0
    whole = reserve(cache, cache.tokens)
    assert (whole.start, whole.size) == (0, cache.tokens)


def test_there_is_nothing_where_there_is_no_room(cache: KeyValueCache) -> None:
    extent = reserve(cache, cache.tokens)
    assert cache.reserve(1) is None
    cache.release(extent)
    assert cache.reserve(1) is not None


def test_what_is_written_is_read(cache: KeyValueCache) -> None:
    reserve(cache, 5)
    extent = reserve(cache, 20)
    fill(cache, extent, 20)
    keys, values, later_keys, later_values = cache.read(extent.start + 2, 2)
    assert keys.shape == (1, 3, 2, 4)
    assert keys[0, 1, 0].tolist() == [28, 29, 30, 31]
    assert torch.equal(values, -keys)
    assert torch.equal(later_keys, keys + 1000)
    assert torch.equal(later_values, -later_keys)


def test_whole_blocks_of_a_published_prompt_are_shared_while_it_runs_and_afterwards(cache: KeyValueCache) -> None:
    first = reserve(cache, len(PROMPT) + 5)
    fill(cache, first, len(PROMPT))
    cache.publish(first, PROMPT, long=False)
    for ended in (False, True):
        if ended:
            cache.release(first)
        second = reserve(cache, len(PROMPT) + 5)
        assert cache.share(second, PROMPT, long=False) == 3 * BLOCK
        for ours, theirs in zip(
            cache.read(second.start, 3 * BLOCK),
            cache.read(first.start, 3 * BLOCK),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
        cache.release(second)


@pytest.mark.parametrize(
    ("prompt", "long", "shared"),
    [
        (PROMPT, True, 0),
        ([-1, *PROMPT[1:]], False, 0),
        (PROMPT[: 2 * BLOCK] + [7] * BLOCK, False, 2 * BLOCK),
        (PROMPT[: 2 * BLOCK - 1] + [7] * BLOCK, False, BLOCK),
        (PROMPT[: 2 * BLOCK], False, BLOCK),
        (PROMPT[: 2 * BLOCK + 1], False, 2 * BLOCK),
        (PROMPT[:5], False, 0),
    ],
    ids=["other factors", "other start", "other third", "other end of the second", "last token", "one more", "short"],
)
def test_only_what_is_the_same_from_the_start_is_shared(
    cache: KeyValueCache, prompt: list[int], long: bool, shared: int
) -> None:
    first = reserve(cache, len(PROMPT))
    cache.publish(first, PROMPT, long=False)
    assert cache.share(reserve(cache, len(prompt)), prompt, long) == shared


def test_kept_prompts_make_room_the_longest_unused_first(cache: KeyValueCache) -> None:
    prompts = [[number] * 2 * BLOCK + [1] for number in range(3)]
    for prompt in prompts:
        extent = reserve(cache, len(prompt))
        cache.publish(extent, prompt, long=False)
        cache.release(extent)
    assert cache.reserved == 0
    extent = reserve(cache, len(prompts[0]))
    for prompt in prompts[:2]:
        assert cache.share(extent, prompt, long=False) == 2 * BLOCK
    cache.release(extent)
    big = reserve(cache, 5 * BLOCK)
    shared = [cache.share(big, prompt, long=False) // BLOCK for prompt in prompts]
    assert shared == [2, 2, 0]
    cache.release(big)
    reserve(cache, cache.tokens)
    assert not cache._blocks


def test_a_block_is_named_after_everything_before_it() -> None:
    one, other = ([first, *PROMPT[1:]] for first in (0, 1))
    assert not set(block_names(one, long=False)) & set(block_names(other, long=False))
    assert len(list(block_names(PROMPT, long=False))) == 3
