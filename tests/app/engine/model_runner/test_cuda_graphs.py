"""The passes of fixed shapes, with plain arithmetic in the place of the GPU's attention."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import BLOCK, KeyValueCache, cache_for
from app.engine.model_runner.cuda_graphs import FixedDecoder, supported
from app.engine.model_runner.eager import Decoder, Span
from app.engine.scheduler import PROMPT_TOKENS, BatchedLane
from app.engine.startup.batch_invariance import difference, invariant
from tests.app.engine.model_runner.test_eager import CONFIGS, LONGROPE, model, theirs
from tests.support.requests import generation, ids, read, request

CONCURRENCY = 6


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """torch.nn.attention.varlen.varlen_attn as its documentation and FlashAttention 2 have it, with what they ask for.

    Keys of a sequence begin at its cu_seq_k and end after seqused_k of them; the last query sees the last key.
    """
    for each in (cu_seq_q, cu_seq_k, seqused_k):
        assert each.dtype == torch.int32
        assert each.is_contiguous()
    sequences = len(cu_seq_q) - 1
    assert (len(cu_seq_k), len(seqused_k)) == (sequences + 1, sequences)
    assert all(each.stride(-1) == 1 for each in (query, key, value))
    assert key.shape == value.shape
    assert query.shape[2] == key.shape[2]
    assert enable_gqa
    assert num_splits == 1  # else the order of summing depends on the longest sequence
    left, right = window_size
    groups = query.shape[1] // key.shape[1]
    out = torch.full_like(query, torch.nan)
    for (first, end), start, used in zip(
        itertools.pairwise(cu_seq_q.tolist()), cu_seq_k[:-1].tolist(), seqused_k.tolist(), strict=True
    ):
        length = end - first
        assert 0 <= length <= max_q
        assert used <= max_k + BLOCK
        assert 0 <= start <= start + used <= len(key)
        keys, values = (each[start : start + used].repeat_interleave(groups, 1) for each in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[first:end], keys) / math.sqrt(query.shape[2])
        at = torch.arange(length)[:, None] + used - length
        to = torch.arange(used)[None]
        seen = (left < 0) | (to >= at - left)
        seen &= torch.tensor(right < 0) | (to <= at + right)
        shares = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0)
        out[first:end] = torch.einsum("hqk,khd->qhd", shares, values)
    return out


def fixed(model: Phi3ForCausalLM, cache: KeyValueCache) -> FixedDecoder:
    return FixedDecoder(model, cache, CONCURRENCY, attention)


def cut(tokens: list[int], start: int, place: int, long: bool) -> list[Span]:
    """The rest of `tokens` from `start`, as the lane cuts it."""
    bounds = [start, *range((start // BLOCK + 1) * BLOCK, len(tokens), BLOCK), len(tokens)]
    return [Span(tokens[a:b], a, place, long, b == len(tokens)) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [2, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_scores_are_those_of_transformers(name: str, length: int) -> None:
    library = model(CONFIGS[name])
    decode = fixed(library, cache_for(library, 1000))
    long = name == "longrope"
    tokens = [(7 * n) % 97 for n in range(length + 2)]
    neighbour = [(5 * n + 1) % 97 for n in range(40)]
    prompt = cut(tokens[:length], 0, 100, long)
    steps = [
        [*prompt, *cut(neighbour[:39], 0, 300, long)],
        [Span(neighbour[39:], 39, 300, long, True), Span(tokens[length:-1], length, 100, long, True)],
        [Span(tokens[-1:], length + 1, 100, long, True)],
    ]
    scores = [decode(spans).clone() for spans in steps]
    if not long or length > 32:
        for row, end in zip((scores[0][0], scores[1][1], scores[2][0]), range(length, length + 3), strict=True):
            torch.testing.assert_close(row, theirs(library, tokens[:end]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[1][0], theirs(library, neighbour), rtol=1e-4, atol=1e-5)


def test_a_pass_takes_as_many_blocks_and_sequences_as_the_lane_gives() -> None:
    library = model({})
    cache = cache_for(library, 1000)
    spans = [Span([number % 97, 1], 0, 5 * number, False, number < 2) for number in range(PROMPT_TOKENS // 2)]
    spans += [Span([7], 0, 700 + number, False, True) for number in range(CONCURRENCY - 2)]
    expected = Decoder(library, cache)(spans)
    torch.testing.assert_close(fixed(library, cache)(spans), expected, rtol=1e-4, atol=1e-5)


def test_a_step_may_want_no_scores() -> None:
    library = model({})
    assert not len(fixed(library, cache_for(library, 1000))([Span([1, 2], 0, 0, False, False)]))


def test_rows_that_fill_up_touch_no_sequence() -> None:
    library = model({})
    cache = cache_for(library, 200)
    decode = fixed(library, cache)
    before = [tensor.clone() for tensor in cache.read(0, 200)]
    decode([Span([3], 0, 0, False, True)])
    decode([Span([3, 4], 0, 0, False, True)])
    after = cache.read(0, 200)
    assert all(torch.equal(old[:, :, 2:], new[:, :, 2:]) for old, new in zip(before, after, strict=True))


def test_company_does_not_matter() -> None:
    library = model({})
    cache = cache_for(library, 1000)
    decode = fixed(library, cache)
    assert invariant(decode, cache, 97, CONCURRENCY)
    assert difference(Decoder(library, cache), decode, cache, 97) < 1e-5


@pytest.mark.parametrize("config", [{}, {"sliding_window": 7}, LONGROPE], ids=["plain", "sliding window", "longrope"])
def test_the_lane_answers_as_with_the_plain_decoder(config: dict[str, Any]) -> None:
    library = model(config)
    chance = random.Random(3)  # noqa: S311 - lengths, not secrets
    asked = [
        request(chance.choices(range(97), k=chance.choice([1, 2, 20, 31, 63, 64, 65, 130])), chance.randint(1, 20))
        for _ in range(20)
    ]
    answers = []
    for kind in (
        Decoder(library, plain := cache_for(library, 1000)),
        fixed(library, other := cache_for(library, 1000)),
    ):
        lane = BatchedLane(library, kind, plain if isinstance(kind, Decoder) else other, CONCURRENCY)
        generations = [generation(each) for each in asked]
        for each in generations:
            lane.submit(each)
        answers.append([ids(read(each)) for each in generations])
    assert answers[0] == answers[1]


def test_a_cpu_has_the_plain_decoder() -> None:
    assert not supported(model({}))
