"""Scheduling policies, without a thread and without a forward pass."""

from typing import Any

import pytest

from app.engine.kv_cache.manager import KVCacheManager, kv_cache_for
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.sampling.sampler import SampledToken
from app.engine.scheduler import Scheduler, SchedulerConfig, Step
from app.engine.stream import RequestStream
from tests.support.engine import build_model
from tests.support.requests import new_stream, read, request, token_ids


@pytest.fixture
def cache() -> KVCacheManager:
    return kv_cache_for(build_model({}), 12 * BLOCK_SIZE)


def new_scheduler(cache: KVCacheManager, max_concurrency: int = 4, **config: Any) -> Scheduler:
    return Scheduler(build_model({}), cache, SchedulerConfig(max_concurrency, 2 * BLOCK_SIZE, **config))


def add(scheduler: Scheduler, prompt_length: int, max_tokens: int = 3, **params: Any) -> RequestStream:
    stream = new_stream(request([5] * prompt_length, max_tokens, **params))
    scheduler.add(stream)
    return stream


def run_step(scheduler: Scheduler) -> Step:
    """Run a step in which every sequence samples token 7."""
    scheduler.drop_cancelled()
    scheduler.start_queued()
    (sequences,) = scheduler.groups()
    step = scheduler.schedule(sequences)
    scheduler.mark_computed(step)
    for sequence in step.sampling:
        scheduler.process(sequence, SampledToken(7, None))
    return step


def sizes(step: Step) -> list[list[int]]:
    """Return the tokens of each chunk, by sequence."""
    return [[chunk.num_tokens for chunk in chunks] for _, chunks in step.scheduled]


def test_prompt_is_cut_into_blocks_within_the_token_budget(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache)
    add(scheduler, 3 * BLOCK_SIZE + 10)
    assert sizes(run_step(scheduler)) == [[BLOCK_SIZE, BLOCK_SIZE]]
    assert sizes(run_step(scheduler)) == [[BLOCK_SIZE, 10]]
    assert sizes(run_step(scheduler)) == [[1]]


def test_decode_tokens_do_not_count_against_the_prefill_budget(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache)
    for _ in range(2):
        add(scheduler, 4)
    run_step(scheduler)
    add(scheduler, 2 * BLOCK_SIZE)
    assert sizes(run_step(scheduler)) == [[1], [1], [BLOCK_SIZE, BLOCK_SIZE]]


def test_second_prompt_waits_for_the_rest_of_the_token_budget(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache)
    add(scheduler, 2 * BLOCK_SIZE - 20)
    add(scheduler, BLOCK_SIZE)
    assert sizes(run_step(scheduler)) == [[BLOCK_SIZE, BLOCK_SIZE - 20]]
    assert sizes(run_step(scheduler)) == [[1], [BLOCK_SIZE]]


def test_concurrency_and_slots_limit_admission_in_order_of_arrival(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache, max_concurrency=2)
    add(scheduler, 4)
    add(scheduler, 11 * BLOCK_SIZE, max_tokens=BLOCK_SIZE)
    add(scheduler, 4)
    scheduler.start_queued()
    assert (len(scheduler.running), len(scheduler.queued)) == (1, 2)
    assert cache.num_reserved == BLOCK_SIZE


def test_other_sequences_of_a_request_start_after_its_first_token(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache)
    stream = add(scheduler, 2 * BLOCK_SIZE, n=3)
    assert len(scheduler.running) + len(scheduler.queued) == 1
    run_step(scheduler)
    assert [queued.index for queued in scheduler.queued] == [1, 2]
    # They copy the first block, and compute the second one for its logits.
    assert sizes(run_step(scheduler)) == [[1], [BLOCK_SIZE], [BLOCK_SIZE]]
    while scheduler.running:
        run_step(scheduler)
    assert [token_ids(read(stream), 0)] == [[7, 7, 7]]
    assert cache.num_reserved == 0


def test_one_sequence_per_pass_groups_each_sequence_alone(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache, one_sequence_per_pass=True)
    for _ in range(3):
        add(scheduler, 4)
    scheduler.start_queued()
    assert [len(group) for group in scheduler.groups()] == [1, 1, 1]


def test_cancelled_requests_release_their_slots_and_close_their_streams(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache, max_concurrency=1)
    streams = [add(scheduler, 4) for _ in range(2)]
    scheduler.start_queued()
    for stream in streams:
        stream.cancel()
    scheduler.drop_cancelled()
    assert scheduler.streams() == []
    assert cache.num_reserved == 0
    assert all(stream.wait(0) for stream in streams)


def test_failed_sequence_ends_all_sequences_of_its_request(cache: KVCacheManager) -> None:
    scheduler = new_scheduler(cache)
    failing, other = add(scheduler, 4, n=3), add(scheduler, 4)
    run_step(scheduler)
    run_step(scheduler)
    scheduler.fail(scheduler.running[0], ValueError("why"))
    assert set(scheduler.streams()) == {other}
    with pytest.raises(ValueError, match="why"):
        read(failing)
