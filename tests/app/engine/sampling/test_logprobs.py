"""Scores of a step."""

import math

import pytest
import torch

from app.engine.request import InvalidScoresError
from app.engine.sampling.logprobs import check_scores, token_scores


def test_scores_with_a_choice_in_every_row_pass_unchanged() -> None:
    scores = torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    assert check_scores(scores) is scores


@pytest.mark.parametrize(
    "row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]], ids=["nan", "+inf", "all -inf"]
)
def test_a_row_that_nothing_can_be_drawn_from_is_refused(row: list[float]) -> None:
    with pytest.raises(InvalidScoresError, match="remove_invalid_values"):
        check_scores(torch.tensor([[0.0, 0.0], row]))


def test_log_probabilities_are_those_of_the_softmax() -> None:
    scores = token_scores(torch.tensor([math.log(1), math.log(3), -math.inf]), 0)
    assert scores.logprob == pytest.approx(math.log(0.25))
    assert [token for token, _ in scores.top] == [1, 0]
    assert [value for _, value in scores.top] == pytest.approx([math.log(0.75), math.log(0.25)])


def test_at_most_ten_tokens_are_told() -> None:
    assert [token for token, _ in token_scores(torch.arange(50.0), 0).top] == list(range(49, 39, -1))
