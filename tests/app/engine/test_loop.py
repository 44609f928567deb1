"""The batch worker against transformers' one-row `generate`, on models of random weights."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.batch import ScheduledChunk
from app.engine.exceptions import EngineError, InvalidLogitsError
from app.engine.kv_cache.manager import kv_cache_for
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.model_runner.eager import EagerRunner
from app.engine.model_runner.packed_linear import pack
from app.engine.request import GenerationRequest
from app.engine.stream import Event, Finished, RequestStream, Token
from tests.support import tiny
from tests.support.engine import start_worker
from tests.support.requests import new_stream, read, request, token_ids, wait_for

THRESHOLD = 32
VOCAB_SIZE = 97
LONGROPE = {
    "original_max_position_embeddings": THRESHOLD,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 12.0]},
}
WINDOW = {"original_max_position_embeddings": 512, "sliding_window": 11}


def build(**config: Any) -> Phi3ForCausalLM:
    return tiny.build(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        **config,
    )


class Harness:
    """A batch worker over a small model, and `generate` of the same model before packing."""

    def __init__(self, config: dict[str, Any], concurrency: int, num_slots: int = 4096, **scheduler: Any) -> None:
        self.library = build(**config)
        model = build(**config)
        pack(model)
        self.cache = kv_cache_for(model, num_slots)
        self.runner = EagerRunner(model, self.cache.storage)
        self.steps: list[list[ScheduledChunk]] = []
        self.fault: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.worker = start_worker(model, self._run, self.cache, concurrency, **scheduler)

    def _run(self, chunks: list[ScheduledChunk]) -> torch.Tensor:
        self.gate.wait()
        self.steps.append(chunks)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        return self.runner(chunks)

    def start(self, *wanted: GenerationRequest) -> list[RequestStream]:
        outputs = [new_stream(each) for each in wanted]
        for answer in outputs:
            self.worker.submit(answer)
        return outputs

    def run(self, *wanted: GenerationRequest) -> list[list[Event]]:
        return [read(answer) for answer in self.start(*wanted)]

    def expected(self, prompt: list[int], new: int, **kwargs: Any) -> list[int]:
        """Return the new tokens of `generate`."""
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
        """Hold the worker before its next step, so that requests share it."""
        self.gate.clear()
        yield
        self.gate.set()


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(3, VOCAB_SIZE), k=length)  # noqa: S311


@pytest.fixture(scope="module")
def plain() -> Harness:
    return Harness({"original_max_position_embeddings": 512}, concurrency=32)


@pytest.fixture(scope="module")
def longrope() -> Harness:
    return Harness(LONGROPE, concurrency=32)


@pytest.mark.parametrize(
    "config", [{"original_max_position_embeddings": 512}, pytest.param(WINDOW, marks=pytest.mark.slow), LONGROPE]
)
def test_64_mixed_requests_give_the_tokens_of_one_row_generate(config: dict[str, Any]) -> None:
    harness = Harness(config, concurrency=32, num_slots=8192)
    sizes = [(1 + 5 * n % 150, 4 + 13 * n % 60) for n in range(64)]
    outputs = harness.run(*(request(prompt(length), new) for length, new in sizes))
    assert [token_ids(events) for events in outputs] == [harness.expected(prompt(length), new) for length, new in sizes]
    assert max(len(step) for step in harness.steps) >= 32
    assert harness.cache.num_reserved == 0


def test_lengths_around_the_longrope_threshold_give_the_tokens_of_generate(longrope: Harness) -> None:
    prompts = [prompt(length) for length in range(THRESHOLD - 25, THRESHOLD + 15)]
    outputs = longrope.run(*(request(each, 20) for each in prompts))
    assert [token_ids(events) for events in outputs] == [longrope.expected(each, 20) for each in prompts]


def test_prefix_of_a_sequence_that_crossed_the_longrope_threshold_is_not_reused() -> None:
    harness = Harness(LONGROPE | {"original_max_position_embeddings": 2 * BLOCK_SIZE}, concurrency=4)
    prompt_ids = prompt(2 * BLOCK_SIZE - 5)
    for new in (20, 3, 20):
        assert token_ids(harness.run(request(prompt_ids, new))[0]) == harness.expected(prompt_ids, new)


def test_requests_cancelled_before_the_next_step_are_not_computed(longrope: Harness) -> None:
    with longrope.held():
        first, second = longrope.start(request(prompt(5), 30), request(prompt(6), 30))
        wait_for(lambda: longrope.worker.running >= 1)
        first.cancel()
        second.cancel()
    read(first)
    read(second)
    wait_for(lambda: longrope.worker.running == longrope.worker.waiting == 0)
    longrope.steps.clear()
    assert token_ids(longrope.run(request(prompt(5), 3))[0]) == longrope.expected(prompt(5), 3)
    assert all(longrope.steps)


def test_remaining_requests_do_not_depend_on_cancelled_ones(longrope: Harness) -> None:
    chance = random.Random(7)  # noqa: S311
    prompts = [prompt(4 + 3 * n) for n in range(24)]
    expected = [longrope.expected(each, 40) for each in prompts]
    for _ in range(5):
        outputs = longrope.start(*(request(each, 40) for each in prompts))
        leaving = chance.sample(range(24), 8)
        for number in leaving:
            threading.Timer(chance.random() * 0.3, outputs[number].cancel).start()
        got = [token_ids(read(answer)) for answer in outputs]
        for number, answer in enumerate(got):
            assert answer == expected[number][: len(answer)]
            assert number in leaving or len(answer) == 40
        wait_for(lambda: longrope.worker.running == 0)
        assert longrope.cache.num_reserved == 0


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
def test_parameter_that_reads_the_history_works_as_in_transformers(plain: Harness, kwargs: dict[str, Any]) -> None:
    prompt_ids = prompt(30) * 2
    neighbours = [request(prompt(9, seed), 30) for seed in range(3)]
    events = plain.run(request(prompt_ids, 40, **kwargs), *neighbours)[0]
    assert token_ids(events) == plain.expected(prompt_ids, 40, **kwargs)


def test_min_tokens_delays_the_eos_token(plain: Harness) -> None:
    prompt_ids = prompt(8)
    end = plain.expected(prompt_ids, 4)[2]
    wanted = request(prompt_ids, 30, eos=(end,))
    longer = request(prompt_ids, 30, eos=(end,), min_tokens=12)
    short, long = (token_ids(events) for events in plain.run(wanted, longer))
    assert short == plain.expected(prompt_ids, 30, eos_token_id=[end])
    assert long == plain.expected(prompt_ids, 30, eos_token_id=[end], min_length=20)


def test_sequence_ends_with_its_eos_token_and_the_reason_stop(plain: Harness) -> None:
    whole = plain.expected(prompt(6), 20)
    (events,) = plain.run(request(prompt(6), 20, eos=(whole[8],)))
    assert token_ids(events) == whole[: whole.index(whole[8]) + 1]
    assert events[-1] == Finished(0, "stop")


SAMPLED: dict[str, Any] = {"temperature": 1.0}


def test_seeded_output_is_the_same_alone_and_in_a_mixed_batch(plain: Harness) -> None:
    wanted = [request(prompt(5 + n), 25, seed=n, temperature=0.5 + n / 8, top_p=1 - n / 40) for n in range(16)] + [
        request(prompt(40 + n), 25) for n in range(15)
    ]
    batched = [token_ids(events) for events in plain.run(*wanted)]
    alone = [token_ids(plain.run(each)[0]) for each in wanted]
    assert batched == alone
    assert len({tuple(answer) for answer in alone}) == len(wanted)


def test_outputs_without_a_seed_differ(plain: Harness) -> None:
    outputs = [token_ids(events) for events in plain.run(*(request(prompt(5), 25, **SAMPLED) for _ in range(3)))]
    assert len({tuple(answer) for answer in outputs}) == 3


def test_sequences_of_one_request_share_the_prompt_and_end_independently(plain: Harness) -> None:
    plain.steps.clear()
    (events,) = plain.run(request(prompt(200), 12, eos=(4,), n=6, seed=1, **SAMPLED))
    assert len({tuple(token_ids(events, number)) for number in range(6)}) == 6
    for number in range(6):
        own = [event for event in events if event.sequence == number]
        assert [type(event) for event in own] == [Token] * (len(own) - 1) + [Finished]
    computed = sum(len(chunk.token_ids) for step in plain.steps for chunk in step)
    assert computed < 200 + 6 * (200 % BLOCK_SIZE + 12)


def test_cached_prompt_is_not_computed_again_and_gives_the_same_output(plain: Harness) -> None:
    prompt_ids = prompt(150, seed=3)
    first = token_ids(plain.run(request(prompt_ids, 10))[0])
    plain.steps.clear()
    assert token_ids(plain.run(request(prompt_ids, 10))[0]) == first
    assert sum(len(chunk.token_ids) for chunk in plain.steps[0]) == 150 - 2 * BLOCK_SIZE


def test_logprobs_belong_to_their_tokens(plain: Harness) -> None:
    (events,) = plain.run(request(prompt(7), 5, logprobs=10, logprobs_mode="processed"))
    for event in events[:-1]:
        assert isinstance(event, Token)
        assert event.logprobs is not None
        assert event.logprobs.top[0] == (event.token_id, event.logprobs.logprob)


def test_requests_wait_until_the_kv_cache_has_free_slots() -> None:
    harness = Harness({"original_max_position_embeddings": 512}, concurrency=3, num_slots=100)
    wanted = [request(prompt(n + 4), 40) for n in range(8)]
    with harness.held():
        outputs = harness.start(*wanted)
        wait_for(lambda: harness.worker.running == 2)
        assert harness.worker.waiting == 6
    got = [token_ids(read(answer)) for answer in outputs]
    assert got == [harness.expected(list(each.prompt_token_ids), 40) for each in wanted]


def test_one_sequence_per_pass_gives_the_same_output() -> None:
    harness = Harness(LONGROPE, concurrency=4, one_sequence_per_pass=True)
    prompts = [prompt(10 + 9 * n) for n in range(4)]
    got = [token_ids(events) for events in harness.run(*(request(each, 20) for each in prompts))]
    assert got == [harness.expected(each, 20) for each in prompts]
    assert all(len({chunk.first_slot for chunk in step}) == 1 for step in harness.steps)


def test_failed_step_fails_its_requests_and_the_worker_continues(plain: Harness) -> None:
    with plain.held():
        outputs = plain.start(request(prompt(5), 30), request(prompt(6), 30, n=2, **SAMPLED))
        plain.fault = ZeroDivisionError("secret words of the prompt")
    for answer in outputs:
        with pytest.raises(EngineError) as failed:
            read(answer)
        assert "secret" not in str(failed.value)
    assert plain.cache.num_reserved == 0
    assert token_ids(plain.run(request(prompt(5), 10))[0]) == plain.expected(prompt(5), 10)


def test_invalid_logits_fail_only_their_request(plain: Harness) -> None:
    with plain.held():
        outputs = plain.start(request(prompt(5), 30, repetition_penalty=1e-39), request(prompt(6), 30))
    with pytest.raises(InvalidLogitsError, match="remove_invalid_values"):
        read(outputs[0])
    assert token_ids(read(outputs[1])) == plain.expected(prompt(6), 30)


def test_request_that_cannot_be_started_fails_alone(plain: Harness) -> None:
    # Token ids are checked before requests come here.
    broken = request(prompt(5), 5, bad_words_ids=[[1]])
    object.__setattr__(broken.params, "bad_words_ids", [["x"]])
    outputs = plain.start(broken, request(prompt(6), 5))
    with pytest.raises(EngineError):
        read(outputs[0])
    assert token_ids(read(outputs[1])) == plain.expected(prompt(6), 5)
    assert plain.cache.num_reserved == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
def test_dead_thread_ends_all_streams_and_the_worker_is_not_alive() -> None:
    harness = Harness(LONGROPE, concurrency=1)
    with harness.held():
        outputs = harness.start(request(prompt(5), 5), request(prompt(6), 5))
        harness.fault = SystemExit()
    for answer in outputs:
        with pytest.raises(EngineError):
            read(answer)
    wait_for(lambda: not harness.worker.alive)


def test_stalled_worker_counts_the_seconds_and_an_idle_one_does_not(plain: Harness) -> None:
    assert plain.worker.stalled_seconds == 0
    with plain.held():
        (answer,) = plain.start(request(prompt(5), 5))
        wait_for(lambda: plain.worker.stalled_seconds > 0.2)
    read(answer)
    wait_for(lambda: plain.worker.stalled_seconds == 0)
