"""Beam search, on a small model."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.beam_search.search import BeamSearch
from app.engine.exceptions import CancelledError
from app.engine.request import GenerationRequest
from app.engine.stream import Event, Finished
from tests.support import tiny
from tests.support.requests import beams, request, token_ids

PROMPT = [1, 5, 17, 9, 33, 12]
BEAMS: dict[str, Any] = {"beam_search": beams(4)}
GROUPS: dict[str, Any] = {"beam_search": beams(4, num_beam_groups=2, diversity_penalty=1.0)}


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def run(model: Phi3ForCausalLM, request_: GenerationRequest) -> list[Event]:
    events: list[Event] = []
    BeamSearch(model)(request_, events.append, lambda: False)
    return events


def test_beams_are_those_of_transformers(model: Phi3ForCausalLM) -> None:
    prompt = torch.tensor([PROMPT])
    config = GenerationConfig(num_beams=4, max_new_tokens=20, do_sample=False, eos_token_id=[4], pad_token_id=0)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert token_ids(run(model, request(PROMPT, 20, eos=(4,), **BEAMS))) == theirs[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kwargs", [BEAMS, GROUPS], ids=["beams", "groups"])
def test_each_beam_finishes_once_with_its_reason(model: Phi3ForCausalLM, kwargs: dict[str, Any]) -> None:
    events = run(model, request(PROMPT, 20, eos=(4, 5), n=4, **kwargs))
    for sequence in range(4):
        own = [event for event in events if event.sequence == sequence]
        stopped = token_ids(own, sequence)[-1] in (4, 5)
        assert own.index(Finished(sequence, "stop" if stopped else "length")) == len(own) - 1


@pytest.mark.parametrize("kwargs", [BEAMS, GROUPS], ids=["beams", "groups"])
def test_cancelled_search_stops_at_the_next_step(model: Phi3ForCausalLM, kwargs: dict[str, Any]) -> None:
    steps = 0

    def cancelled() -> bool:
        nonlocal steps
        steps += 1
        return steps > 3

    with pytest.raises(CancelledError):
        BeamSearch(model)(request(PROMPT, 50, **kwargs), lambda _: None, cancelled)
    assert steps <= 3 + 2


def test_sampled_beams_repeat_with_their_seed(model: Phi3ForCausalLM) -> None:
    sampled = BEAMS | {"temperature": 5.0}
    answers = [token_ids(run(model, request(PROMPT, 12, seed=seed, **sampled))) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
