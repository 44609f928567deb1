"""The eager model runner against the forward pass of transformers."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk
from app.engine.kv_cache.manager import kv_cache_for
from app.engine.model_runner.eager import EagerRunner
from app.engine.model_runner.packed_linear import RowLimits, pack
from app.engine.model_runner.phi3 import Attention, Phi3Layers
from tests.support.engine import CONFIGS, build_model, expected_logits


def new_runner(model: Phi3ForCausalLM, limits: RowLimits | None = None) -> EagerRunner:
    return EagerRunner(model, kv_cache_for(model, 1000).storage, limits)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [[], [1], [8, 16, 24, 29], [29]], ids=str)
@pytest.mark.parametrize("limits", [None, RowLimits(2, 64)], ids=["no limits", "limits"])
def test_logits_are_those_of_transformers_for_any_chunking(
    name: str, cuts: list[int], limits: RowLimits | None
) -> None:
    library = build_model(CONFIGS[name])
    run = new_runner(library, limits)
    ids = [(7 * n) % 97 for n in range(30)]
    neighbour = [(5 * n + 1) % 97 for n in range(60)]
    long = name == "longrope"
    ends = [0, *cuts, 30]
    for start, end in itertools.pairwise(ends):
        chunks = [
            ScheduledChunk(ids[start:end], start, 100, False, end == 30),
            ScheduledChunk(neighbour, 0, 300, long, True),
        ]
        logits = run(chunks)
    torch.testing.assert_close(logits[0], expected_logits(library, ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], expected_logits(library, neighbour), rtol=1e-4, atol=1e-5)


def test_passes_have_as_many_rows_as_the_limits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    compute = Phi3Layers.__call__

    def counted(self: Phi3Layers, rows: torch.Tensor, attend: Attention) -> torch.Tensor:
        counts.append(rows.shape[1])
        return compute(self, rows, attend)

    monkeypatch.setattr(Phi3Layers, "__call__", counted)
    chunks = [ScheduledChunk([1] * 60, 0, 100 * number, False, True) for number in range(5)]
    chunks[1:1] = [ScheduledChunk([number], 0, 600 + number, False, True) for number in range(7)]
    logits = new_runner(build_model({}), RowLimits(3, 128))(chunks)
    assert counts == [128, 128, 64, 3, 3, 1]
    torch.testing.assert_close(logits, new_runner(build_model({}))(chunks), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("starts", "counts"),
    [
        ([0, 128, 256, 384], [4]),
        ([384, 0, 256, 128], [4]),
        ([0, 128, 256, 576], [3, 1]),
        ([0, 128, 320, 512], [2, 2]),
        ([0], [1]),
    ],
    ids=["equal", "in another order", "one apart", "two and two", "alone"],
)
def test_decode_tokens_with_equally_spaced_keys_share_an_attention_call(
    starts: list[int], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    attention = functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        computed.append(len(query))
        return attention(query, *args, **kwargs)

    library = build_model({})
    run = new_runner(library)
    ids = [[(start + 7 * n) % 97 for n in range(20 + number)] for number, start in enumerate(starts)]
    run([ScheduledChunk(row[:-1], 0, start, False, False) for row, start in zip(ids, starts, strict=True)])
    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    logits = run(
        [ScheduledChunk(row[-1:], len(row) - 1, start, False, True) for row, start in zip(ids, starts, strict=True)]
    )
    assert computed == counts * library.config.num_hidden_layers
    torch.testing.assert_close(
        logits, torch.stack([expected_logits(library, row) for row in ids]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decode_token_has_the_same_bits_at_any_slot_in_any_batch(window: int | None, dtype: torch.dtype) -> None:
    library = build_model({"sliding_window": window, "num_attention_heads": 8, "num_key_value_heads": 2}).to(dtype)
    pack(library)
    cache = kv_cache_for(library, 3000)
    run = EagerRunner(library, cache.storage)
    ids = [(7 * n) % 97 for n in range(70)]
    for start in range(0, 3000, 200):
        run([ScheduledChunk(ids[:64], 0, start, False, False)])
        run([ScheduledChunk(ids[64:69], 64, start, False, False)])

    def decode_token(start: int, tokens: int = 70) -> ScheduledChunk:
        return ScheduledChunk(ids[tokens - 1 : tokens], tokens - 1, start, False, True)

    alone = run([decode_token(1000)])[0]
    batches = [[1200], [800, 1200], [*range(0, 2801, 200)], [0, 200, 2000], [1200, 1400, 2200]]
    for starts in batches:
        for lengths in ((70,), (70, 40, 66), (40, 64)):
            others = [
                decode_token(start, length) for start, length in zip(starts, itertools.cycle(lengths), strict=False)
            ]
            others = [chunk for chunk in others if chunk.first_slot != 1000]
            for index in {0, len(others) // 2, len(others)}:
                assert torch.equal(run([*others[:index], decode_token(1000), *others[index:]])[index], alone)


def test_step_can_contain_several_chunks_of_one_sequence() -> None:
    library = build_model({})
    ids = [(7 * n) % 97 for n in range(30)]
    chunks = [
        ScheduledChunk(ids[0:16], 0, 50, False, False),
        ScheduledChunk(ids[16:29], 16, 50, False, False),
        ScheduledChunk(ids[29:], 29, 50, False, True),
    ]
    torch.testing.assert_close(new_runner(library)(chunks)[0], expected_logits(library, ids), rtol=1e-4, atol=1e-5)


def test_logits_come_in_the_order_of_the_chunks_that_want_them() -> None:
    library = build_model({})
    rows = [[1, 2, 3], [4], [5, 6], [7]]
    chunks = [ScheduledChunk(row, 0, 100 * number, False, number != 1) for number, row in enumerate(rows)]
    logits = new_runner(library)(chunks)
    wanted = torch.stack([expected_logits(library, row) for row in (rows[0], rows[2], rows[3])])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def test_step_without_wanted_logits_returns_none() -> None:
    assert not len(new_runner(build_model({}))([ScheduledChunk([1, 2], 0, 0, False, False)]))


def test_dimensions_beyond_the_partial_rotary_factor_are_not_rotated() -> None:
    library = build_model(
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
    )
    ids = [(7 * n) % 97 for n in range(20)]
    logits = new_runner(library)([ScheduledChunk(ids, 0, 0, False, True)])
    torch.testing.assert_close(logits[0], expected_logits(library, ids), rtol=1e-4, atol=1e-5)
