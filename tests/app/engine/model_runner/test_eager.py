"""The forward pass against transformers' own."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import cache_for
from app.engine.model_runner.eager import Attend, Decoder, Layers, Span
from app.engine.model_runner.packed_linear import Division, pack
from tests.support import tiny

LONGROPE = {
    "original_max_position_embeddings": 32,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 12.0]},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sliding window": {"sliding_window": 7},
    "grouped": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "ungrouped": {"num_key_value_heads": 4},
    "longrope": LONGROPE,
}


def model(config: dict[str, Any]) -> Phi3ForCausalLM:
    sizes = {"max_position_embeddings": 256, "original_max_position_embeddings": 256}
    return tiny.build(vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=None, **sizes | config)


def decoder(model: Phi3ForCausalLM, division: Division | None = None) -> Decoder:
    return Decoder(model, cache_for(model, 1000), division)


def theirs(model: Phi3ForCausalLM, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        scores: torch.Tensor = model(torch.tensor([ids])).logits[0, -1]
    return scores


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [[], [1], [8, 16, 24, 29], [29]], ids=str)
@pytest.mark.parametrize("division", [None, Division(2, 64)], ids=["whole", "divided"])
def test_scores_are_those_of_transformers_however_the_tokens_come(
    name: str, cuts: list[int], division: Division | None
) -> None:
    library = model(CONFIGS[name])
    decode = decoder(library, division)
    ids = [(7 * n) % 97 for n in range(30)]
    neighbour = [(5 * n + 1) % 97 for n in range(60)]
    long = name == "longrope"
    ends = [0, *cuts, 30]
    for start, end in itertools.pairwise(ends):
        spans = [Span(ids[start:end], start, 100, False, end == 30), Span(neighbour, 0, 300, long, True)]
        scores = decode(spans)
    torch.testing.assert_close(scores[0], theirs(library, ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[1], theirs(library, neighbour), rtol=1e-4, atol=1e-5)


def test_passes_have_as_many_rows_as_the_division_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    compute = Layers.__call__

    def counted(self: Layers, rows: torch.Tensor, attend: Attend) -> torch.Tensor:
        counts.append(rows.shape[1])
        return compute(self, rows, attend)

    monkeypatch.setattr(Layers, "__call__", counted)
    spans = [Span([1] * 60, 0, 100 * number, False, True) for number in range(5)]
    spans[1:1] = [Span([number], 0, 600 + number, False, True) for number in range(7)]
    scores = decoder(model({}), Division(3, 128))(spans)
    assert counts == [128, 128, 64, 3, 3, 1]
    torch.testing.assert_close(scores, decoder(model({}))(spans), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        ([0, 128, 256, 384], [4]),
        ([384, 0, 256, 128], [4]),
        ([0, 128, 256, 576], [3, 1]),
        ([0, 128, 320, 512], [2, 2]),
        ([0], [1]),
    ],
    ids=["equal", "in another order", "one apart", "two and two", "alone"],
)
def test_newest_tokens_whose_keys_lie_at_equal_distances_are_computed_together(
    places: list[int], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    attention = functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        computed.append(len(query))
        return attention(query, *args, **kwargs)

    library = model({})
    decode = decoder(library)
    ids = [[(place + 7 * n) % 97 for n in range(20 + number)] for number, place in enumerate(places)]
    decode([Span(row[:-1], 0, place, False, False) for row, place in zip(ids, places, strict=True)])
    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    scores = decode([Span(row[-1:], len(row) - 1, place, False, True) for row, place in zip(ids, places, strict=True)])
    assert computed == counts * library.config.num_hidden_layers
    torch.testing.assert_close(scores, torch.stack([theirs(library, row) for row in ids]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_newest_token_gets_the_same_bits_wherever_and_whatever_its_neighbours_are(
    window: int | None, dtype: torch.dtype
) -> None:
    library = model({"sliding_window": window, "num_attention_heads": 8, "num_key_value_heads": 2}).to(dtype)
    pack(library)
    cache = cache_for(library, 3000)
    decode = Decoder(library, cache)
    ids = [(7 * n) % 97 for n in range(70)]
    for start in range(0, 3000, 200):
        decode([Span(ids[:64], 0, start, False, False)])
        decode([Span(ids[64:69], 64, start, False, False)])

    def newest(start: int, tokens: int = 70) -> Span:
        return Span(ids[tokens - 1 : tokens], tokens - 1, start, False, True)

    alone = decode([newest(1000)])[0]
    companies = [[1200], [800, 1200], [*range(0, 2801, 200)], [0, 200, 2000], [1200, 1400, 2200]]
    for places in companies:
        for tokens in ((70,), (70, 40, 66), (40, 64)):
            others = [newest(place, length) for place, length in zip(places, itertools.cycle(tokens), strict=False)]
            others = [span for span in others if span.start != 1000]
            for place in {0, len(others) // 2, len(others)}:
                assert torch.equal(decode([*others[:place], newest(1000), *others[place:]])[place], alone)


def test_blocks_of_one_sequence_may_come_in_one_step() -> None:
    library = model({})
    ids = [(7 * n) % 97 for n in range(30)]
    spans = [
        Span(ids[0:16], 0, 50, False, False),
        Span(ids[16:29], 16, 50, False, False),
        Span(ids[29:], 29, 50, False, True),
    ]
    torch.testing.assert_close(decoder(library)(spans)[0], theirs(library, ids), rtol=1e-4, atol=1e-5)


def test_scores_come_in_the_order_of_the_spans_that_want_them() -> None:
    library = model({})
    rows = [[1, 2, 3], [4], [5, 6], [7]]
    spans = [Span(row, 0, 100 * number, False, number != 1) for number, row in enumerate(rows)]
    scores = decoder(library)(spans)
    wanted = torch.stack([theirs(library, row) for row in (rows[0], rows[2], rows[3])])
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)


def test_a_step_may_want_no_scores() -> None:
    assert not len(decoder(model({}))([Span([1, 2], 0, 0, False, False)]))


def test_dimensions_beyond_the_partial_rotary_factor_are_not_rotated() -> None:
    library = model({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}})
    ids = [(7 * n) % 97 for n in range(20)]
    scores = decoder(library)([Span(ids, 0, 0, False, True)])
    torch.testing.assert_close(scores[0], theirs(library, ids), rtol=1e-4, atol=1e-5)
