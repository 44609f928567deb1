"""The GPU's model runner, on the CPU and with plain arithmetic instead of the GPU's attention kernel."""

import functools
import itertools
import random
from typing import Any

import pytest
import torch

from app.engine.batch import ScheduledChunk
from app.engine.kv_cache.manager import kv_cache_for
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.model_runner.cuda_graphs import supports_cuda_graphs
from app.engine.model_runner.eager import EagerRunner
from app.engine.startup.batch_invariance import Probe
from tests.support.engine import (
    CONFIGS,
    LONGROPE,
    MAX_PREFILL_TOKENS,
    build_model,
    cuda_graph_runner,
    expected_logits,
    start_worker,
)
from tests.support.requests import new_stream, read, request, token_ids

CONCURRENCY = 6


def cut(tokens: list[int], start: int, slot: int, long: bool) -> list[ScheduledChunk]:
    """Cut `tokens` from `start` on into chunks, as the scheduler does."""
    bounds = [start, *range((start // BLOCK_SIZE + 1) * BLOCK_SIZE, len(tokens), BLOCK_SIZE), len(tokens)]
    return [ScheduledChunk(tokens[a:b], a, slot, long, b == len(tokens)) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [2, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE + 5])
def test_logits_are_those_of_transformers(name: str, length: int) -> None:
    library = build_model(CONFIGS[name])
    run = cuda_graph_runner(library, kv_cache_for(library, 1000), CONCURRENCY)
    long = name == "longrope"
    tokens = [(7 * n) % 97 for n in range(length + 2)]
    neighbour = [(5 * n + 1) % 97 for n in range(40)]
    prompt = cut(tokens[:length], 0, 100, long)
    steps = [
        [*prompt, *cut(neighbour[:39], 0, 300, long)],
        [
            ScheduledChunk(neighbour[39:], 39, 300, long, True),
            ScheduledChunk(tokens[length:-1], length, 100, long, True),
        ],
        [ScheduledChunk(tokens[-1:], length + 1, 100, long, True)],
    ]
    logits = [run(chunks).clone() for chunks in steps]
    if not long or length > 32:
        for row, end in zip((logits[0][0], logits[1][1], logits[2][0]), range(length, length + 3), strict=True):
            torch.testing.assert_close(row, expected_logits(library, tokens[:end]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1][0], expected_logits(library, neighbour), rtol=1e-4, atol=1e-5)


def test_pass_holds_as_many_chunks_and_sequences_as_a_step_has() -> None:
    library = build_model({})
    cache = kv_cache_for(library, 1000)
    chunks = [
        ScheduledChunk([number % 97, 1], 0, 5 * number, False, number < 2) for number in range(MAX_PREFILL_TOKENS // 2)
    ]
    chunks += [ScheduledChunk([7], 0, 700 + number, False, True) for number in range(CONCURRENCY - 2)]
    expected = EagerRunner(library, cache.storage)(chunks)
    torch.testing.assert_close(cuda_graph_runner(library, cache, CONCURRENCY)(chunks), expected, rtol=1e-4, atol=1e-5)


def test_step_without_wanted_logits_returns_none() -> None:
    library = build_model({})
    assert not len(
        cuda_graph_runner(library, kv_cache_for(library, 1000), CONCURRENCY)(
            [ScheduledChunk([1, 2], 0, 0, False, False)]
        )
    )


def test_padding_rows_change_no_sequence() -> None:
    library = build_model({})
    cache = kv_cache_for(library, 200)
    run = cuda_graph_runner(library, cache, CONCURRENCY)
    before = [tensor.clone() for tensor in cache.storage.read(0, 200)]
    run([ScheduledChunk([3], 0, 0, False, True)])
    run([ScheduledChunk([3, 4], 0, 0, False, True)])
    after = cache.storage.read(0, 200)
    assert all(torch.equal(old[:, :, 2:], new[:, :, 2:]) for old, new in zip(before, after, strict=True))


def test_cuda_graph_runner_is_batch_invariant() -> None:
    library = build_model({})
    cache = kv_cache_for(library, 1000)
    run = cuda_graph_runner(library, cache, CONCURRENCY)
    probe = Probe(cache, 97)
    assert probe.is_batch_invariant(run, CONCURRENCY, MAX_PREFILL_TOKENS)
    assert probe.relative_error(EagerRunner(library, cache.storage), run) < 1e-5


@pytest.mark.parametrize("config", [{}, {"sliding_window": 7}, LONGROPE], ids=["plain", "sliding window", "longrope"])
def test_outputs_are_those_of_the_eager_runner(config: dict[str, Any]) -> None:
    library = build_model(config)
    chance = random.Random(3)  # noqa: S311 - lengths, not secrets
    requests = [
        request(chance.choices(range(97), k=chance.choice([1, 2, 20, 31, 63, 64, 65, 130])), chance.randint(1, 20))
        for _ in range(20)
    ]
    graph_runner = functools.partial(cuda_graph_runner, library, max_concurrency=CONCURRENCY)
    outputs = []
    for make_runner in (lambda cache: EagerRunner(library, cache.storage), graph_runner):
        cache = kv_cache_for(library, 1000)
        worker = start_worker(library, make_runner(cache), cache, CONCURRENCY)
        streams = [new_stream(each) for each in requests]
        for stream in streams:
            worker.submit(stream)
        outputs.append([token_ids(read(stream)) for stream in streams])
    assert outputs[0] == outputs[1]


def test_cpu_does_not_support_cuda_graphs() -> None:
    assert not supports_cuda_graphs(build_model({}))
