"""The reference lane, on small models."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.engine import CancelledError
from app.engine.reference import ReferenceLane
from app.engine.request import Event, Finished, GenerationRequest, Token
from app.schema import GenerateKwargs
from tests import tiny

ORIGINAL = 32


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


@pytest.fixture(scope="module")
def long_model() -> Phi3ForCausalLM:
    """A model that rotates with other factors beyond 32 tokens, as the 128k models do beyond 4,096."""
    return tiny.build(
        vocab_size=97,
        max_position_embeddings=256,
        original_max_position_embeddings=ORIGINAL,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 12.0]},
    )


def request(prompt: list[int], new: int, ends: tuple[int, ...] = (), **kwargs: Any) -> GenerationRequest:
    settings = GenerateKwargs(**{"do_sample": False} | kwargs)
    return GenerationRequest("", tuple(prompt), len(prompt) + new, 0, ends, 3, settings)


def run(model: Phi3ForCausalLM, wanted: GenerationRequest) -> list[Event]:
    events: list[Event] = []
    ReferenceLane(model).run(wanted, events.append, lambda: False)
    return events


def ids(events: list[Event], sequence: int = 0) -> list[int]:
    return [event.id for event in events if isinstance(event, Token) and event.sequence == sequence]


PROMPT = [1, 5, 17, 9, 33, 12]


def test_greedy_answers_are_those_of_the_library(model: Phi3ForCausalLM) -> None:
    prompt = torch.tensor([PROMPT])
    config = GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=[-1], pad_token_id=0)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    events = run(model, request(PROMPT, 20))
    assert ids(events) == theirs[0, len(PROMPT) :].tolist()
    assert events[-1] == Finished(0, "length")


def test_an_answer_ends_with_its_end_token_and_says_so(model: Phi3ForCausalLM) -> None:
    plain = ids(run(model, request(PROMPT, 20)))
    end = plain[8]
    events = run(model, request(PROMPT, 20, ends=(end,)))
    assert ids(events) == plain[: plain.index(end) + 1]
    assert events[-1] == Finished(0, "stop")


def test_each_of_several_sequences_ends_once_and_emits_nothing_after(model: Phi3ForCausalLM) -> None:
    events = run(model, request(PROMPT, 30, ends=(4, 5), do_sample=True, top_k=0, num_return_sequences=6))
    for sequence in range(6):
        own = [event for event in events if event.sequence == sequence]
        assert [type(event) for event in own] == [Token] * (len(own) - 1) + [Finished]
        last = own[-2]
        assert isinstance(last, Token)
        assert own[-1] == Finished(sequence, "stop" if last.id in (4, 5) else "length")


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"num_beams": 4}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}],
    ids=["greedy", "beams", "groups"],
)
def test_a_cancelled_request_is_left_at_the_next_step(model: Phi3ForCausalLM, kwargs: dict[str, Any]) -> None:
    steps = 0

    def cancelled() -> bool:
        nonlocal steps
        steps += 1
        return steps > 3

    with pytest.raises(CancelledError):
        ReferenceLane(model).run(request(PROMPT, 50, **kwargs), lambda _: None, cancelled)
    assert steps <= 3 + 2


def test_long_and_short_sequences_at_once_are_what_they_are_alone(long_model: Phi3ForCausalLM) -> None:
    lane = ReferenceLane(long_model)
    prompts = [[(7 * n + k) % 97 for k in range(length)] for n, length in enumerate((4, 28, 31, 40, 60, 10, 33, 20))]

    def answer(prompt: list[int]) -> list[int]:
        events: list[Event] = []
        lane.run(request(prompt, 12), events.append, lambda: False)
        return ids(events)

    alone = [answer(prompt) for prompt in prompts]
    steps: list[int] = []
    hook = long_model.register_forward_pre_hook(lambda *_: steps.append(threading.get_ident()))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, prompts)) == alone
    hook.remove()
    # No sequence's steps lie between those of another.
    turns = [thread for thread, _ in itertools.groupby(steps)]
    assert len(set(steps)) > 1
    assert len(turns) <= len(prompts)
