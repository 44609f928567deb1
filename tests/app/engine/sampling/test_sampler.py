"""Sampling tokens."""

import itertools
import math
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, Phi3ForCausalLM

from app.engine.exceptions import InvalidLogitsError
from app.engine.sampling.sampler import SampledToken, Sampler, random_number, sample, sample_rows, seed_of
from app.engine.sampling_params import SamplingParams
from tests.support import tiny
from tests.support.requests import request

SAMPLES = 20_000
VOCAB_SIZE = 48


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(3)) * 2


def by_hand(
    logits: torch.Tensor, temperature: float = 1, top_k: int = 0, top_p: float = 1, min_p: float = 0
) -> list[float]:
    """The distribution that the settings mean, in plain Python."""
    scores = {token: score / temperature for token, score in enumerate(logits.tolist())}
    kept = sorted(scores, key=lambda token: -scores[token])[: top_k or None]
    whole = sum(math.exp(scores[token]) for token in kept)
    mass, nucleus = 0.0, []
    for token in kept:
        if mass >= top_p:
            break
        nucleus.append(token)
        mass += math.exp(scores[token]) / whole
    kept = [token for token in nucleus if math.exp(scores[token] - scores[kept[0]]) >= min_p]
    whole = sum(math.exp(scores[token]) for token in kept)
    return [math.exp(scores[token]) / whole if token in kept else 0.0 for token in range(len(scores))]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"temperature": 0.5}, marks=pytest.mark.slow),
        pytest.param({"temperature": 3.0}, marks=pytest.mark.slow),
        pytest.param({"top_k": 10}, marks=pytest.mark.slow),
        pytest.param({"top_p": 0.8}, marks=pytest.mark.slow),
        pytest.param({"min_p": 0.1}, marks=pytest.mark.slow),
        {"temperature": 1.7, "top_k": 20, "top_p": 0.9},
    ],
    ids=str,
)
def test_samples_follow_the_softmax_by_a_chi_square_test(
    model: Phi3ForCausalLM, logits: torch.Tensor, settings: dict[str, Any]
) -> None:
    params = {"temperature": 1.0} | settings
    counts = [0] * VOCAB_SIZE
    for first in range(0, SAMPLES, 500):
        samplers = [Sampler(model, request([1], 1, **params), 0, seed) for seed in range(first, first + 500)]
        for sampled in sample(logits.repeat(500, 1), samplers):
            assert isinstance(sampled, SampledToken)
            counts[sampled.token_id] += 1
    probabilities = by_hand(logits, **settings)
    assert all(probability > 0 for probability, count in zip(probabilities, counts, strict=True) if count)
    # Cells with fewer than five expected samples count as one.
    cells = [(SAMPLES * probability, count) for probability, count in zip(probabilities, counts, strict=True)]
    small = [cell for cell in cells if cell[0] < 5]
    cells = [cell for cell in cells if cell[0] >= 5]
    if sum(expected for expected, _ in small) >= 5:
        cells.append((sum(expected for expected, _ in small), sum(count for _, count in small)))
    statistic = sum((count - expected) ** 2 / expected for expected, count in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty's normal approximation of chi-square, at one in ten thousand.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound


def test_steps_of_one_seed_are_independent(logits: torch.Tensor) -> None:
    numbers = [random_number(5, 0, step) for step in range(SAMPLES)]
    lag = sum((a - 0.5) * (b - 0.5) for a, b in itertools.pairwise(numbers)) / (SAMPLES / 12)
    assert abs(lag) < 4 / math.sqrt(SAMPLES)
    assert abs(sum(numbers) / SAMPLES - 0.5) < 4 / math.sqrt(12 * SAMPLES)
    probabilities = (
        torch.bincount(torch.tensor(sample_rows(logits.repeat(SAMPLES, 1), numbers)), minlength=VOCAB_SIZE) / SAMPLES
    )
    torch.testing.assert_close(probabilities.double(), logits.double().softmax(-1), rtol=0, atol=0.015)


def test_random_number_depends_only_on_seed_sequence_and_step() -> None:
    numbers = {random_number(seed, sequence, step) for seed in (0, 2**63 - 1) for sequence in (0, 1) for step in (0, 1)}
    assert len(numbers) == 8
    assert all(0 <= number < 1 for number in numbers)
    assert random_number(7, 1, 3) == random_number(7, 1, 3)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-52])
def test_ends_of_the_range_sample_tokens_with_probability(number: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert sample_rows(logits, [number]) == [1 if number == 0 else 2]


def test_missing_seed_is_replaced_by_a_fresh_one() -> None:
    assert seed_of(SamplingParams(max_tokens=1, seed=5)) == 5
    assert seed_of(SamplingParams(max_tokens=1)) != seed_of(SamplingParams(max_tokens=1))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ngram_ban_masks_the_tokens_that_transformers_masks(model: Phi3ForCausalLM, size: int) -> None:
    library = LogitsProcessorList([NoRepeatNGramLogitsProcessor(size)])
    sampler = Sampler(model, request([1, 2, 3, 1, 2], 40, no_repeat_ngram_size=size), 0, 0)
    for step in range(40):
        logits = torch.zeros(1, VOCAB_SIZE)
        assert torch.equal(sampler.process(logits), library(torch.tensor([sampler.token_ids]), logits))
        sampler.append((step * step) % 5)


def test_row_without_a_token_to_sample_is_an_error_of_its_own(model: Phi3ForCausalLM, logits: torch.Tensor) -> None:
    rows = logits.repeat(3, 1)
    rows[1] = torch.nan
    results = sample(rows, [Sampler(model, request([1], 1), 0, 0) for _ in range(3)])
    assert [type(sampled) for sampled in results] == [SampledToken, InvalidLogitsError, SampledToken]


def test_biases_and_penalties_are_added_to_the_logits(model: Phi3ForCausalLM) -> None:
    biased = request([1, 2], 8, logit_bias={5: -100, 7: 3.5}, presence_penalty=0.5, frequency_penalty=-2)
    sampler = Sampler(model, biased, 0, 0)
    for token in (4, 4, 9):
        sampler.append(token)
    logits = torch.zeros(1, VOCAB_SIZE)
    changed = {4: -0.5 + 4, 5: -100, 7: 3.5, 9: -0.5 + 2}
    assert sampler.process(logits)[0].tolist() == [changed.get(token, 0.0) for token in range(VOCAB_SIZE)]
    assert logits.eq(0).all()


def test_raw_logprobs_are_the_models_own(model: Phi3ForCausalLM, logits: torch.Tensor) -> None:
    params: dict[str, Any] = {"temperature": 0.1, "top_k": 2, "logprobs": 3, "logit_bias": {5: 7.0}}
    sampler = Sampler(model, request([1], 8, **params), 0, 0)
    (sampled,) = sample(logits[None].clone(), [sampler])
    assert isinstance(sampled, SampledToken)
    assert sampled.logprobs
    own = logits.log_softmax(-1)
    assert sampled.logprobs.logprob == pytest.approx(float(own[sampled.token_id]))
    assert [token for token, _ in sampled.logprobs.top] == own.topk(3).indices.tolist()
