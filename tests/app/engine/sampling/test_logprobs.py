"""Logprobs of a step."""

import math

import pytest
import torch

from app.engine.exceptions import InvalidLogitsError
from app.engine.sampling.logprobs import check_logits, token_logprobs


def test_valid_logits_pass_the_check_unchanged() -> None:
    logits = torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    assert check_logits(logits) is logits


@pytest.mark.parametrize(
    "row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]], ids=["nan", "+inf", "all -inf"]
)
def test_row_without_a_token_to_sample_raises(row: list[float]) -> None:
    with pytest.raises(InvalidLogitsError, match="remove_invalid_values"):
        check_logits(torch.tensor([[0.0, 0.0], row]))


def test_logprobs_are_those_of_the_softmax() -> None:
    logprobs = token_logprobs(torch.tensor([math.log(1), math.log(3), -math.inf]), 0, 10)
    assert logprobs.logprob == pytest.approx(math.log(0.25))
    assert [token for token, _ in logprobs.top] == [1, 0]
    assert [value for _, value in logprobs.top] == pytest.approx([math.log(0.75), math.log(0.25)])


def test_logprobs_have_at_most_the_wanted_number_of_tokens() -> None:
    assert [token for token, _ in token_logprobs(torch.arange(50.0), 0, 10).top] == list(range(49, 39, -1))
