"""Diverse beam search, against the published algorithm by hand and against transformers."""

import functools
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import LogitsProcessorList, Phi3ForCausalLM

from app.engine.beam_search import search
from app.engine.beam_search.diverse import Beam, diverse_beam_search
from app.engine.request import GenerationRequest
from app.engine.sampling_params import BeamSearchParams, SamplingParams
from tests.support import tiny

END, A, B, C, START = range(5)
# Probability of the next token, by the last one.
CHAIN = {
    START: {A: 0.5, B: 0.4, C: 0.1},
    A: {C: 0.6, B: 0.4},
    B: {C: 0.7, A: 0.3},
    C: {END: 0.9, A: 0.1},
}
BEAM_SEARCH = {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 0.5, "length_penalty": 0.0}


def search_chain(max_tokens: int = 2, n: int = 2, logprobs: int | None = None, **changes: Any) -> list[Beam]:
    """Search the chain from START."""

    def logits(token_ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        assert token_ids.shape[0] == parents.shape[0]
        rows = torch.full((len(token_ids), 5), -torch.inf)
        for row, last in zip(rows, token_ids[:, -1].tolist(), strict=True):
            for token, probability in CHAIN.get(last, {END: 1.0}).items():
                row[token] = math.log(probability)
        return rows

    params = SamplingParams(
        n=n,
        max_tokens=max_tokens,
        eos_token_ids=(END,),
        pad_token_id=END,
        logprobs=logprobs,
        beam_search=BeamSearchParams(**BEAM_SEARCH | changes),
    )
    request = GenerationRequest("", (START,), params)
    return diverse_beam_search(torch.tensor([[START]]), logits, lambda _, scores: scores, request)


def totals(beams: list[Beam]) -> list[tuple[tuple[int, ...], Any]]:
    return [(beam.token_ids, pytest.approx(beam.total, abs=1e-5)) for beam in beams]


def test_groups_diverge_if_the_penalty_outweighs_the_likelier_token() -> None:
    # First step: the first group takes A (ln .5). The second has A at ln .5 - .5 = -1.19 and B at ln .4 = -0.92: B.
    # Second step: the first takes C (ln .6). The second has C at ln .7 - .5 = -0.86 and A at ln .3 = -1.20: C.
    assert totals(search_chain()) == [
        ((A, C), math.log(0.5) + math.log(0.6)),
        ((B, C), math.log(0.4) + math.log(0.7) - 0.5),
    ]


def test_greater_penalty_makes_groups_diverge_at_the_second_step_too() -> None:
    # Second step, second group: C at ln .7 - 1 = -1.36, A at ln .3 = -1.20: A, which nobody chose, at no penalty.
    assert totals(search_chain(diversity_penalty=1.0)) == [
        ((A, C), math.log(0.5) + math.log(0.6)),
        ((B, A), math.log(0.4) + math.log(0.3)),
    ]


def test_small_penalty_keeps_the_groups_equal() -> None:
    # First step, second group: A at ln .5 - .1 = -0.79 is still above B at -0.92.
    assert [beam.token_ids for beam in search_chain(diversity_penalty=0.1)] == [(A, C), (A, C)]


def test_each_earlier_group_that_chose_a_token_adds_a_penalty() -> None:
    # .2 once leaves the second group at A (-0.89 against -0.92); .2 twice moves the third to B (-1.09 against -0.92).
    beams = search_chain(num_beams=3, num_beam_groups=3, n=3, diversity_penalty=0.2, max_tokens=1)
    assert [beam.token_ids for beam in beams] == [(A,), (A,), (B,)]


def test_beam_ends_with_its_eos_token() -> None:
    first = search_chain(max_tokens=5, diversity_penalty=0.1)[0]
    assert first.token_ids == (A, C, END)
    assert first.total == pytest.approx(math.log(0.5 * 0.6 * 0.9))


def test_length_penalty_is_the_exponent_of_the_length() -> None:
    beam = Beam((A, C, END), (), -3.0)
    assert beam.score(2.0) == pytest.approx(-3.0 / 9)
    assert beam.score(0.0) == -3.0


def test_beam_has_logprobs_for_each_token_on_request() -> None:
    beam = search_chain(logprobs=10)[0]
    assert [score.logprob for score in beam.logprobs] == pytest.approx([math.log(0.5), math.log(0.6)])


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    """A small model whose next token depends strongly on what came before."""
    return tiny.golden()


GOLDEN = json.loads(Path(__file__).with_name("diverse.json").read_text())


def find_beams(model: Phi3ForCausalLM, request: GenerationRequest) -> list[Beam]:
    """Return the beams of diverse beam search, also for a single group."""
    prompt = torch.tensor([request.prompt_token_ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=search._generation_config(request),
        custom_generate=functools.partial(own_search, request=request),
    )
    return search._beams(output, request)


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
    """Replace the beam search of transformers inside `generate`."""
    return diverse_beam_search(input_ids[:1], search._ModelLogits(model, model_kwargs), logits_processor, request)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_groups_find_the_beams_of_transformers_4_41(model: Phi3ForCausalLM, case: dict[str, Any]) -> None:
    settings = dict(case["settings"])
    eos, min_length = settings.pop("eos_token_id"), settings.pop("min_length", 0)
    assert settings.pop("do_sample") is False
    names = ("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping")
    beam_search = BeamSearchParams(**{name: settings.pop(name) for name in names if name in settings})
    params = SamplingParams(
        n=settings.pop("num_return_sequences"),
        max_tokens=settings.pop("max_length") - len(case["prompt"]),
        min_tokens=max(0, min_length - len(case["prompt"])),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        temperature=0.0,
        beam_search=beam_search,
        **settings,
    )
    found = find_beams(model, GenerationRequest("", tuple(case["prompt"]), params))
    assert [list(beam.token_ids) for beam in found] == [answer["ids"] for answer in case["answers"]]
    assert [beam.score(beam_search.length_penalty) for beam in found] == pytest.approx(
        [answer["score"] for answer in case["answers"]], abs=1e-4
    )


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("extra", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}], ids=str)
def test_single_group_finds_the_beams_of_transformers(
    model: Phi3ForCausalLM, early_stopping: bool | Literal["never"], length_penalty: float, extra: dict[str, Any]
) -> None:
    beam_search = BeamSearchParams(num_beams=4, early_stopping=early_stopping, length_penalty=length_penalty)
    params = SamplingParams(
        n=4, max_tokens=16, eos_token_ids=(0, 2), pad_token_id=3, temperature=0.0, beam_search=beam_search, **extra
    )
    request = GenerationRequest("", (5, 6, 7), params)
    prompt = torch.tensor([request.prompt_token_ids])
    config = search._generation_config(request)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert [beam.token_ids for beam in find_beams(model, request)] == [
        beam.token_ids for beam in search._beams(theirs, request)
    ]
