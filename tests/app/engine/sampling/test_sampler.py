"""How tokens are chosen."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, Phi3ForCausalLM

from app.api.chat.schema import GenerateKwargs
from app.engine.request import InvalidScoresError
from app.engine.sampling.sampler import Choice, Chooser, choose, draw_tokens, seed_of, uniform
from tests.support import tiny
from tests.support.requests import request

DRAWS = 20_000
VOCABULARY = 48


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2


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
def test_draws_follow_the_softmax_by_a_chi_square_test(
    model: Phi3ForCausalLM, logits: torch.Tensor, settings: dict[str, Any]
) -> None:
    kwargs = {"do_sample": True, "top_k": 0} | settings
    counts = [0] * VOCABULARY
    for first in range(0, DRAWS, 500):
        choosers = [Chooser(model, request([1], 1, **kwargs), 0, seed) for seed in range(first, first + 500)]
        for choice in choose(logits.repeat(500, 1), choosers):
            assert isinstance(choice, Choice)
            counts[choice.token] += 1
    shares = by_hand(logits, **settings)
    assert all(share > 0 for share, count in zip(shares, counts, strict=True) if count)
    # Cells with fewer than five expected draws count as one.
    cells = [(DRAWS * share, count) for share, count in zip(shares, counts, strict=True)]
    small = [cell for cell in cells if cell[0] < 5]
    cells = [cell for cell in cells if cell[0] >= 5]
    if sum(expected for expected, _ in small) >= 5:
        cells.append((sum(expected for expected, _ in small), sum(count for _, count in small)))
    statistic = sum((count - expected) ** 2 / expected for expected, count in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty's normal approximation of chi-square, at one in ten thousand.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound


def test_the_steps_of_one_seed_are_independent_draws(logits: torch.Tensor) -> None:
    numbers = [uniform(5, 0, step) for step in range(DRAWS)]
    lag = sum((a - 0.5) * (b - 0.5) for a, b in itertools.pairwise(numbers)) / (DRAWS / 12)
    assert abs(lag) < 4 / math.sqrt(DRAWS)
    assert abs(sum(numbers) / DRAWS - 0.5) < 4 / math.sqrt(12 * DRAWS)
    shares = torch.bincount(torch.tensor(draw_tokens(logits.repeat(DRAWS, 1), numbers)), minlength=VOCABULARY) / DRAWS
    torch.testing.assert_close(shares.double(), logits.double().softmax(-1), rtol=0, atol=0.015)


def test_a_draw_depends_on_seed_sequence_and_step_alone() -> None:
    numbers = {uniform(seed, sequence, step) for seed in (0, 2**63 - 1) for sequence in (0, 1) for step in (0, 1)}
    assert len(numbers) == 8
    assert all(0 <= number < 1 for number in numbers)
    assert uniform(7, 1, 3) == uniform(7, 1, 3)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-52])
def test_the_ends_of_the_range_draw_tokens_that_can_be_drawn(number: float) -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert draw_tokens(scores, [number]) == [1 if number == 0 else 2]


def test_what_was_not_asked_for_is_a_fresh_seed() -> None:
    assert seed_of(GenerateKwargs(seed=5)) == 5
    assert seed_of(GenerateKwargs()) != seed_of(GenerateKwargs())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_runs_that_occurred_are_those_that_transformers_finds(model: Phi3ForCausalLM, size: int) -> None:
    library = LogitsProcessorList([NoRepeatNGramLogitsProcessor(size)])
    chooser = Chooser(model, request([1, 2, 3, 1, 2], 40, no_repeat_ngram_size=size), 0, 0)
    for step in range(40):
        scores = torch.zeros(1, VOCABULARY)
        assert torch.equal(chooser.process(scores), library(torch.tensor([chooser.ids]), scores))
        chooser.append((step * step) % 5)


def test_a_row_without_a_choice_is_an_error_of_its_own(model: Phi3ForCausalLM, logits: torch.Tensor) -> None:
    rows = logits.repeat(3, 1)
    rows[1] = torch.nan
    choices = choose(rows, [Chooser(model, request([1], 1), 0, 0) for _ in range(3)])
    assert [type(choice) for choice in choices] == [Choice, InvalidScoresError, Choice]


def test_biases_and_penalties_are_added_to_the_scores(model: Phi3ForCausalLM) -> None:
    plain = request([1, 2], 8)
    wanted = dataclasses.replace(plain, logit_bias={5: -100, 7: 3.5}, presence_penalty=0.5, frequency_penalty=-2)
    chooser = Chooser(model, wanted, 0, 0)
    for token in (4, 4, 9):
        chooser.append(token)
    scores = torch.zeros(1, VOCABULARY)
    changed = {4: -0.5 + 4, 5: -100, 7: 3.5, 9: -0.5 + 2}
    assert chooser.process(scores)[0].tolist() == [changed.get(token, 0.0) for token in range(VOCABULARY)]
    assert scores.eq(0).all()


def test_log_probabilities_can_be_the_models_own(model: Phi3ForCausalLM, logits: torch.Tensor) -> None:
    plain = request([1], 8, do_sample=True, temperature=0.1, top_k=2)
    chooser = Chooser(model, dataclasses.replace(plain, logprobs=3, logit_bias={5: 7.0}), 0, 0)
    (choice,) = choose(logits[None].clone(), [chooser])
    assert isinstance(choice, Choice)
    assert choice.scores
    own = logits.log_softmax(-1)
    assert choice.scores.logprob == pytest.approx(float(own[choice.token]))
    assert [token for token, _ in choice.scores.top] == own.topk(3).indices.tolist()
