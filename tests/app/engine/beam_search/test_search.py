"""Beam search, on a small model."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.beam_search.search import BeamSearch
from app.engine.request import CancelledError, Event, Finished, GenerationRequest
from tests.support import tiny
from tests.support.requests import ids, request

PROMPT = [1, 5, 17, 9, 33, 12]
BEAMS: dict[str, Any] = {"num_beams": 4}
GROUPS = BEAMS | {"num_beam_groups": 2, "diversity_penalty": 1.0}


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def run(model: Phi3ForCausalLM, wanted: GenerationRequest) -> list[Event]:
    events: list[Event] = []
    BeamSearch(model)(wanted, events.append, lambda: False)
    return events


def test_answers_are_those_of_the_library(model: Phi3ForCausalLM) -> None:
    prompt = torch.tensor([PROMPT])
    config = GenerationConfig(num_beams=4, max_new_tokens=20, do_sample=False, eos_token_id=[4], pad_token_id=0)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert ids(run(model, request(PROMPT, 20, ends=(4,), **BEAMS))) == theirs[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kwargs", [BEAMS, GROUPS], ids=["beams", "groups"])
def test_every_answer_ends_once_and_says_why(model: Phi3ForCausalLM, kwargs: dict[str, Any]) -> None:
    events = run(model, request(PROMPT, 20, ends=(4, 5), num_return_sequences=4, **kwargs))
    for sequence in range(4):
        own = [event for event in events if event.sequence == sequence]
        stopped = ids(own, sequence)[-1] in (4, 5)
        assert own.index(Finished(sequence, "stop" if stopped else "length")) == len(own) - 1


@pytest.mark.parametrize("kwargs", [BEAMS, GROUPS], ids=["beams", "groups"])
def test_a_cancelled_search_is_left_at_the_next_step(model: Phi3ForCausalLM, kwargs: dict[str, Any]) -> None:
    steps = 0

    def cancelled() -> bool:
        nonlocal steps
        steps += 1
        return steps > 3

    with pytest.raises(CancelledError):
        BeamSearch(model)(request(PROMPT, 50, **kwargs), lambda _: None, cancelled)
    assert steps <= 3 + 2


def test_drawn_beams_repeat_with_their_seed(model: Phi3ForCausalLM) -> None:
    drawn = BEAMS | {"do_sample": True, "top_k": 0, "temperature": 5.0}
    answers = [ids(run(model, request(PROMPT, 12, seed=seed, **drawn))) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
