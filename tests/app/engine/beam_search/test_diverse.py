"""Diverse beam search, against the published algorithm by hand and against transformers."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, Phi3ForCausalLM

from app.api.chat.schema import GenerateKwargs
from app.engine.beam_search import search as reference
from app.engine.beam_search.diverse import Beam, GroupBeamSettings, group_beam_search
from app.engine.request import GenerationRequest
from tests.support import tiny

END, A, B, C, START = range(5)
# Probability of the next token, by the last one.
CHAIN = {
    START: {A: 0.5, B: 0.4, C: 0.1},
    A: {C: 0.6, B: 0.4},
    B: {C: 0.7, A: 0.3},
    C: {END: 0.9, A: 0.1},
}
BASE = GroupBeamSettings(
    num_beams=2,
    num_groups=2,
    diversity_penalty=0.5,
    num_return=2,
    length_penalty=0.0,
    early_stopping=False,
    eos_token_ids=(END,),
    pad_token_id=END,
    max_length=3,
    scored=False,
)


def search(**changes: Any) -> list[Beam]:
    """Search the chain from START."""

    def logits(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        assert ids.shape[0] == parents.shape[0]
        rows = torch.full((len(ids), 5), -torch.inf)
        for row, last in zip(rows, ids[:, -1].tolist(), strict=True):
            for token, probability in CHAIN.get(last, {END: 1.0}).items():
                row[token] = math.log(probability)
        return rows

    return group_beam_search(
        torch.tensor([[START]]), logits, lambda _, scores: scores, dataclasses.replace(BASE, **changes)
    )


def totals(beams: list[Beam]) -> list[tuple[tuple[int, ...], Any]]:
    return [(beam.ids, pytest.approx(beam.total, abs=1e-5)) for beam in beams]


def test_groups_part_where_the_penalty_outweighs_the_likelier_token() -> None:
    # First step: the first group takes A (ln .5). The second has A at ln .5 - .5 = -1.19 and B at ln .4 = -0.92: B.
    # Second step: the first takes C (ln .6). The second has C at ln .7 - .5 = -0.86 and A at ln .3 = -1.20: C.
    assert totals(search()) == [
        ((A, C), math.log(0.5) + math.log(0.6)),
        ((B, C), math.log(0.4) + math.log(0.7) - 0.5),
    ]


def test_a_greater_penalty_parts_them_at_the_second_step_too() -> None:
    # Second step, second group: C at ln .7 - 1 = -1.36, A at ln .3 = -1.20: A, which nobody chose, at no penalty.
    assert totals(search(diversity_penalty=1.0)) == [
        ((A, C), math.log(0.5) + math.log(0.6)),
        ((B, A), math.log(0.4) + math.log(0.3)),
    ]


def test_a_small_penalty_leaves_the_groups_together() -> None:
    # First step, second group: A at ln .5 - .1 = -0.79 is still above B at -0.92.
    assert [beam.ids for beam in search(diversity_penalty=0.1)] == [(A, C), (A, C)]


def test_each_earlier_group_that_chose_a_token_adds_a_penalty() -> None:
    # .2 once leaves the second group at A (-0.89 against -0.92); .2 twice moves the third to B (-1.09 against -0.92).
    beams = search(num_beams=3, num_groups=3, num_return=3, diversity_penalty=0.2, max_length=2)
    assert [beam.ids for beam in beams] == [(A,), (A,), (B,)]


def test_a_sequence_ends_at_an_end_token_and_keeps_it() -> None:
    first = search(max_length=6, diversity_penalty=0.1)[0]
    assert first.ids == (A, C, END)
    assert first.total == pytest.approx(math.log(0.5 * 0.6 * 0.9))


def test_a_length_penalty_divides_by_the_length_to_its_power() -> None:
    beam = Beam((A, C, END), (), -3.0)
    assert beam.value(2.0) == pytest.approx(-3.0 / 9)
    assert beam.value(0.0) == -3.0


def test_scores_are_recorded_for_each_token_where_asked() -> None:
    beam = search(scored=True)[0]
    assert [score.logprob for score in beam.scores] == pytest.approx([math.log(0.5), math.log(0.6)])


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    """A small model whose next token depends strongly on what came before."""
    return tiny.golden()


GOLDEN = json.loads(Path(__file__).with_name("diverse.json").read_text())


def answers(model: Phi3ForCausalLM, request: GenerationRequest) -> list[Beam]:
    """What the reference lane's model answers with beams."""
    prompt = torch.tensor([request.prompt_ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=reference._generation_config(request),
        custom_generate=functools.partial(own_search, request=request),
    )
    return reference._beams(output, request)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_groups_find_what_transformers_found_when_it_had_them(model: Phi3ForCausalLM, case: dict[str, Any]) -> None:
    settings = dict(case["settings"])
    ends, pad, length = (settings.pop(name) for name in ("eos_token_id", "pad_token_id", "max_length"))
    request = GenerationRequest(
        id="",
        prompt_ids=tuple(case["prompt"]),
        max_length=length,
        min_length=settings.get("min_length", 0),
        eos_token_ids=tuple(ends) if isinstance(ends, list) else (ends,),
        pad_token_id=pad,
        kwargs=GenerateKwargs(**settings),
    )
    found = answers(model, request)
    assert [list(beam.ids) for beam in found] == [answer["ids"] for answer in case["answers"]]
    assert [beam.value(request.kwargs.length_penalty) for beam in found] == pytest.approx(
        [answer["score"] for answer in case["answers"]], abs=1e-4
    )


def own_search(
    model: Phi3ForCausalLM,
    input_ids: torch.Tensor,
    *,
    request: GenerationRequest,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,  # noqa: ARG001
    generation_config: Any,  # noqa: ARG001
    **model_kwargs: Any,
) -> list[Beam]:
    """Stand in for the library's beam search inside `generate`."""
    return reference._group_beam_search(model, input_ids, logits_processor, request, model_kwargs)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("extra", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}], ids=str)
def test_one_group_finds_what_the_library_finds(
    model: Phi3ForCausalLM, early_stopping: bool | str, length_penalty: float, extra: dict[str, Any]
) -> None:
    kwargs = GenerateKwargs(
        do_sample=False,
        num_beams=4,
        num_return_sequences=4,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        **extra,
    )
    request = GenerationRequest("", (5, 6, 7), 19, 0, (0, 2), 3, kwargs)
    prompt = torch.tensor([request.prompt_ids])
    config = reference._generation_config(request)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert [beam.ids for beam in answers(model, request)] == [beam.ids for beam in reference._beams(theirs, request)]
