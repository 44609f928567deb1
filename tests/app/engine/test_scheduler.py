"""The batched lane against the library's one-row `generate`, on models of random weights."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.kv_cache import BLOCK, cache_for
from app.engine.model_runner.eager import Decoder, Span
from app.engine.model_runner.packed_linear import pack
from app.engine.request import (
    EngineError,
    Event,
    Finished,
    Generation,
    GenerationRequest,
    InvalidScoresError,
    Token,
)
from app.engine.scheduler import BatchedLane
from tests.support import tiny
from tests.support.requests import generation, ids, read, request, wait_for

CROSSING = 32
VOCABULARY = 97
LONGROPE = {
    "original_max_position_embeddings": CROSSING,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 12.0]},
}
WINDOW = {"original_max_position_embeddings": 512, "sliding_window": 11}


def build(**config: Any) -> Phi3ForCausalLM:
    return tiny.build(
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        **config,
    )


class Lane:
    """A batched lane over a small model, and `generate` of the same model as it came."""

    def __init__(self, config: dict[str, Any], concurrency: int, tokens: int = 4096, together: bool = True) -> None:
        self.library = build(**config)
        model = build(**config)
        pack(model)
        self.cache = cache_for(model, tokens)
        self.decoder = Decoder(model, self.cache)
        self.steps: list[list[Span]] = []
        self.fault: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.lane = BatchedLane(model, self._decode, self.cache, concurrency, together)

    def _decode(self, spans: list[Span]) -> torch.Tensor:
        self.gate.wait()
        self.steps.append(spans)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        return self.decoder(spans)

    def start(self, *wanted: GenerationRequest) -> list[Generation]:
        answers = [generation(each) for each in wanted]
        for answer in answers:
            self.lane.submit(answer)
        return answers

    def run(self, *wanted: GenerationRequest) -> list[list[Event]]:
        return [read(answer) for answer in self.start(*wanted)]

    def wanted(self, prompt: list[int], new: int, **kwargs: Any) -> list[int]:
        """What `generate` gives."""
        config = GenerationConfig(
            **{"do_sample": False, "max_new_tokens": new, "eos_token_id": [-1], "pad_token_id": 0} | kwargs
        )
        row = torch.tensor([prompt])
        with torch.inference_mode():
            output = self.library.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
        answer: list[int] = output[0, len(prompt) :].tolist()
        return answer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lane before its next step, so that requests come together."""
        self.gate.clear()
        yield
        self.gate.set()


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(3, VOCABULARY), k=length)  # noqa: S311


@pytest.fixture(scope="module")
def plain() -> Lane:
    return Lane({"original_max_position_embeddings": 512}, concurrency=32)


@pytest.fixture(scope="module")
def longrope() -> Lane:
    return Lane(LONGROPE, concurrency=32)


@pytest.mark.parametrize(
    "config", [{"original_max_position_embeddings": 512}, pytest.param(WINDOW, marks=pytest.mark.slow), LONGROPE]
)
def test_64_mixed_requests_are_token_for_token_what_one_row_generate_gives(config: dict[str, Any]) -> None:
    lane = Lane(config, concurrency=32, tokens=8192)
    sizes = [(1 + 5 * n % 150, 4 + 13 * n % 60) for n in range(64)]
    answers = lane.run(*(request(prompt(length), new) for length, new in sizes))
    assert [ids(events) for events in answers] == [lane.wanted(prompt(length), new) for length, new in sizes]
    assert max(len(step) for step in lane.steps) >= 32
    assert lane.cache.reserved == 0


def test_40_lengths_around_the_crossing_are_what_one_row_generate_gives(longrope: Lane) -> None:
    prompts = [prompt(length) for length in range(CROSSING - 25, CROSSING + 15)]
    answers = longrope.run(*(request(each, 20) for each in prompts))
    assert [ids(events) for events in answers] == [longrope.wanted(each, 20) for each in prompts]


def test_a_prompt_whose_answer_crosses_is_not_shared_with_its_new_factors() -> None:
    lane = Lane(LONGROPE | {"original_max_position_embeddings": 2 * BLOCK}, concurrency=4)
    asked = prompt(2 * BLOCK - 5)
    for new in (20, 3, 20):
        assert ids(lane.run(request(asked, new))[0]) == lane.wanted(asked, new)


def test_nothing_is_computed_for_those_who_left_before_the_next_step(longrope: Lane) -> None:
    with longrope.held():
        first, second = longrope.start(request(prompt(5), 30), request(prompt(6), 30))
        wait_for(lambda: longrope.lane.running >= 1)
        first.cancel()
        second.cancel()
    read(first)
    read(second)
    wait_for(lambda: longrope.lane.running == longrope.lane.waiting == 0)
    longrope.steps.clear()
    assert ids(longrope.run(request(prompt(5), 3))[0]) == longrope.wanted(prompt(5), 3)
    assert all(longrope.steps)


def test_those_who_stay_do_not_notice_those_who_leave(longrope: Lane) -> None:
    chance = random.Random(7)  # noqa: S311
    prompts = [prompt(4 + 3 * n) for n in range(24)]
    expected = [longrope.wanted(each, 40) for each in prompts]
    for _ in range(5):
        answers = longrope.start(*(request(each, 40) for each in prompts))
        leaving = chance.sample(range(24), 8)
        for number in leaving:
            threading.Timer(chance.random() * 0.3, answers[number].cancel).start()
        got = [ids(read(answer)) for answer in answers]
        for number, answer in enumerate(got):
            assert answer == expected[number][: len(answer)]
            assert number in leaving or len(answer) == 40
        wait_for(lambda: longrope.lane.running == 0)
        assert longrope.cache.reserved == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"repetition_penalty": 1.8},
        {"encoder_repetition_penalty": 0.3},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3},
        {"encoder_no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [7, 9], [20, 21, 22]]},
        {"suppress_tokens": [4, 8, 15, 16, 23, 42]},
        {"begin_suppress_tokens": list(range(50))},
        {"forced_eos_token_id": 33},
        {"remove_invalid_values": True, "repetition_penalty": 1e-39},
    ],
    ids=str,
)
def test_a_setting_that_looks_back_does_what_it_does_in_the_library(plain: Lane, kwargs: dict[str, Any]) -> None:
    asked = prompt(30) * 2
    neighbours = [request(prompt(9, seed), 30) for seed in range(3)]
    events = plain.run(request(asked, 40, **kwargs), *neighbours)[0]
    assert ids(events) == plain.wanted(asked, 40, **kwargs)


def test_a_least_length_holds_off_the_end(plain: Lane) -> None:
    asked = prompt(8)
    end = plain.wanted(asked, 4)[2]
    wanted = request(asked, 30, ends=(end,))
    longer = GenerationRequest("", wanted.prompt_ids, wanted.max_length, 20, wanted.eos_token_ids, 3, wanted.kwargs)
    short, long = (ids(events) for events in plain.run(wanted, longer))
    assert short == plain.wanted(asked, 30, eos_token_id=[end])
    assert long == plain.wanted(asked, 30, eos_token_id=[end], min_length=20)


def test_an_answer_ends_with_its_end_token_and_says_so(plain: Lane) -> None:
    whole = plain.wanted(prompt(6), 20)
    (events,) = plain.run(request(prompt(6), 20, ends=(whole[8],)))
    assert ids(events) == whole[: whole.index(whole[8]) + 1]
    assert events[-1] == Finished(0, "stop")


DRAWN: dict[str, Any] = {"do_sample": True, "top_k": 0}


def test_a_seeded_answer_is_the_same_alone_and_among_others_with_other_settings(plain: Lane) -> None:
    wanted = [
        request(prompt(5 + n), 25, seed=n, temperature=0.5 + n / 8, top_p=1 - n / 40, **DRAWN) for n in range(16)
    ] + [request(prompt(40 + n), 25) for n in range(15)]
    together = [ids(events) for events in plain.run(*wanted)]
    alone = [ids(plain.run(each)[0]) for each in wanted]
    assert together == alone
    assert len({tuple(answer) for answer in alone}) == len(wanted)


def test_answers_without_a_seed_differ(plain: Lane) -> None:
    answers = [ids(events) for events in plain.run(*(request(prompt(5), 25, **DRAWN) for _ in range(3)))]
    assert len({tuple(answer) for answer in answers}) == 3


def test_several_answers_share_their_prompt_and_each_ends_by_itself(plain: Lane) -> None:
    plain.steps.clear()
    (events,) = plain.run(request(prompt(200), 12, ends=(4,), num_return_sequences=6, seed=1, **DRAWN))
    assert len({tuple(ids(events, number)) for number in range(6)}) == 6
    for number in range(6):
        own = [event for event in events if event.sequence == number]
        assert [type(event) for event in own] == [Token] * (len(own) - 1) + [Finished]
    computed = sum(len(span.ids) for step in plain.steps for span in step)
    assert computed < 200 + 6 * (200 % BLOCK + 12)


def test_a_prompt_that_was_computed_before_is_not_computed_again_and_nothing_changes(plain: Lane) -> None:
    asked = prompt(150, seed=3)
    first = ids(plain.run(request(asked, 10))[0])
    plain.steps.clear()
    assert ids(plain.run(request(asked, 10))[0]) == first
    assert sum(len(span.ids) for span in plain.steps[0]) == 150 - 2 * BLOCK


def test_scores_come_with_the_tokens_they_belong_to(plain: Lane) -> None:
    (events,) = plain.run(request(prompt(7), 5, output_scores=True))
    for event in events[:-1]:
        assert isinstance(event, Token)
        assert event.scores is not None
        assert event.scores.top[0] == (event.id, event.scores.logprob)


def test_more_than_fit_wait_until_there_is_room() -> None:
    lane = Lane({"original_max_position_embeddings": 512}, concurrency=3, tokens=100)
    wanted = [request(prompt(n + 4), 40) for n in range(8)]
    with lane.held():
        answers = lane.start(*wanted)
        wait_for(lambda: lane.lane.running == 2)
        assert lane.lane.waiting == 6
    got = [ids(read(answer)) for answer in answers]
    assert got == [lane.wanted(list(each.prompt_ids), 40) for each in wanted]


def test_one_sequence_a_pass_gives_the_same() -> None:
    lane = Lane(LONGROPE, concurrency=4, together=False)
    prompts = [prompt(10 + 9 * n) for n in range(4)]
    got = [ids(events) for events in lane.run(*(request(each, 20) for each in prompts))]
    assert got == [lane.wanted(each, 20) for each in prompts]
    assert all(len({span.start for span in step}) == 1 for step in lane.steps)


def test_a_fault_in_a_step_fails_its_requests_and_the_lane_serves_on(plain: Lane) -> None:
    with plain.held():
        answers = plain.start(request(prompt(5), 30), request(prompt(6), 30, num_return_sequences=2, **DRAWN))
        plain.fault = ZeroDivisionError("secret words of the prompt")
    for answer in answers:
        with pytest.raises(EngineError) as failed:
            read(answer)
        assert "secret" not in str(failed.value)
    assert plain.cache.reserved == 0
    assert ids(plain.run(request(prompt(5), 10))[0]) == plain.wanted(prompt(5), 10)


def test_invalid_scores_fail_their_own_request_alone(plain: Lane) -> None:
    with plain.held():
        answers = plain.start(request(prompt(5), 30, repetition_penalty=1e-39), request(prompt(6), 30))
    with pytest.raises(InvalidScoresError, match="remove_invalid_values"):
        read(answers[0])
    assert ids(read(answers[1])) == plain.wanted(prompt(6), 30)


def test_a_request_that_cannot_be_started_fails_alone(plain: Lane) -> None:
    # Token ids are checked before requests come here.
    broken = request(prompt(5), 5, bad_words_ids=[[1]])
    object.__setattr__(broken.kwargs, "bad_words_ids", [["x"]])
    answers = plain.start(broken, request(prompt(6), 5))
    with pytest.raises(EngineError):
        read(answers[0])
    assert ids(read(answers[1])) == plain.wanted(prompt(6), 5)
    assert plain.cache.reserved == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_a_thread_that_dies_tells_its_readers_and_the_lane_is_no_longer_alive() -> None:
    lane = Lane(LONGROPE, concurrency=1)
    with lane.held():
        answers = lane.start(request(prompt(5), 5), request(prompt(6), 5))
        lane.fault = SystemExit()
    for answer in answers:
        with pytest.raises(EngineError):
            read(answer)
    wait_for(lambda: not lane.lane.alive)


def test_a_lane_that_is_stuck_counts_the_seconds_and_one_without_work_does_not(plain: Lane) -> None:
    assert plain.lane.idle_seconds == 0
    with plain.held():
        (answer,) = plain.start(request(prompt(5), 5))
        wait_for(lambda: plain.lane.idle_seconds > 0.2)
    read(answer)
    wait_for(lambda: plain.lane.idle_seconds == 0)
