"""Every parameter of `/chat` has a visible effect on the response of the demo model."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.api.chat.schema import ChatRequest, GenerateKwargs
from tools.harness.server import Server

QUESTION = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
# Without tags, so that the completion reaches its maximum length.
STORY = "Once upon a time, in a small village, there lived"

Effect = Callable[["Chat"], None]
EFFECTS: dict[str, Effect] = {}


def effect(check: Effect) -> Effect:
    """Register `check` as the test of the parameter with its name."""
    EFFECTS[check.__name__.removesuffix("_")] = check
    return check


class Chat:
    """Client of the demo model. Greedy by default, so that only the tested parameter changes the response."""

    def __init__(self, server: Server, tokenizer: PreTrainedTokenizerBase) -> None:
        self.server = server
        self.tokenizer = tokenizer

    def __call__(self, prompt: str | None = QUESTION, /, **fields: Any) -> dict[str, Any]:
        fields = {"do_sample": False, "return_full_text": False} | fields
        response = self.server.chat(prompt, **fields)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def details(self, prompt: str | None = QUESTION, /, **fields: Any) -> list[dict[str, Any]]:
        """Return the details of all sequences."""
        details: list[dict[str, Any]] = self(prompt, return_dict_in_generate=True, **fields)["Details"]
        return details

    def ids(self, prompt: str = QUESTION, /, **fields: Any) -> list[int]:
        """Return the token IDs of the first sequence."""
        ids: list[int] = self.details(prompt, **fields)[0]["token_ids"]
        return ids

    def first(self, prompt: str = STORY, /, **fields: Any) -> dict[int, float]:
        """Return the probabilities of the ten most likely first tokens during sampling."""
        settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 1} | fields
        tokens = self.details(prompt, output_scores=True, **settings)[0]["top_logprobs"][0]
        return {token["token_id"]: math.exp(token["logprob"]) for token in tokens}

    def encode(self, text: str) -> list[int]:
        """Return the token IDs of `text`."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def one(self, text: str) -> int:
        """Return the only token ID of `text`."""
        (token,) = self.encode(text)
        return token


@pytest.fixture(scope="module")
def chat(server: Server, demo: Path) -> Chat:
    return Chat(server, AutoTokenizer.from_pretrained(demo))


@effect
def prompt(chat: Chat) -> None:
    assert "Paris" in chat()["Result"]
    assert "Paris" not in chat(QUESTION.replace("France", "Italy"), max_new_tokens=12)["Result"]


@effect
def messages(chat: Chat) -> None:
    conversation = [{"role": "user", "content": "What is the capital of France?"}]
    assert chat(None, messages=conversation)["Result"] == chat()["Result"]


@effect
def return_full_text(chat: Chat) -> None:
    assert chat(return_full_text=True)["Result"] == QUESTION + chat(return_full_text=False)["Result"]


@effect
def clean_up_tokenization_spaces(chat: Chat) -> None:
    forced = {"forced_eos_token_id": chat.one(" ."), "max_new_tokens": 1}
    assert chat("The end", **forced)["Result"] == " ."
    assert chat("The end", clean_up_tokenization_spaces=True, **forced)["Result"] == "."


@effect
def prefix(chat: Chat) -> None:
    first, rest = "Once upon ", "a time"
    whole = chat(first + rest, max_new_tokens=8)["Result"]
    assert chat(rest, max_new_tokens=8)["Result"] != whole
    assert chat(rest, prefix=first, max_new_tokens=8, return_full_text=True)["Result"] == rest + whole


@effect
def handle_long_generation(chat: Chat) -> None:
    long = "word " * 600
    refused = chat.server.chat(long, max_new_tokens=5)
    assert refused.status_code == 400
    assert "512" in refused.json()["detail"]
    details = chat.details(long, handle_long_generation="hole", max_new_tokens=5)
    assert details[0]["prompt_tokens"] == 512 - 5


@effect
def max_length(chat: Chat) -> None:
    details = chat.details(STORY, max_length=30)[0]
    assert details["prompt_tokens"] + details["completion_tokens"] == 30
    assert details["finish_reason"] == "length"


@effect
def max_new_tokens(chat: Chat) -> None:
    assert chat.details(STORY, max_new_tokens=7)[0]["completion_tokens"] == 7


@effect
def min_length(chat: Chat) -> None:
    plain = chat.details()[0]
    total = plain["prompt_tokens"] + plain["completion_tokens"]
    longer = chat.details(min_length=total + 10)[0]
    assert plain["finish_reason"] == "stop"
    assert longer["prompt_tokens"] + longer["completion_tokens"] >= total + 10


@effect
def min_new_tokens(chat: Chat) -> None:
    count = chat.details()[0]["completion_tokens"] + 5
    assert chat.details(min_new_tokens=count)[0]["completion_tokens"] >= count


@effect
def do_sample(chat: Chat) -> None:
    assert len({chat(STORY, max_new_tokens=12)["Result"] for _ in range(2)}) == 1
    sampled = chat.details(STORY, do_sample=True, temperature=3.0, top_k=0, num_return_sequences=4, max_new_tokens=12)
    assert len({output["text"] for output in sampled}) > 1


@effect
def seed(chat: Chat) -> None:
    sampled = {"do_sample": True, "top_k": 0, "temperature": 1.5, "max_new_tokens": 12}
    outputs = [chat(STORY, seed=number, **sampled)["Result"] for number in (1, 1, 2)]
    assert outputs[0] == outputs[1] != outputs[2]


@effect
def early_stopping(chat: Chat) -> None:
    ends = [chat.one(text) for text in (",", ".", " and")]
    beams = {"num_beams": 3, "length_penalty": 2.0, "max_new_tokens": 24, "eos_token_id": ends}
    lengths = [len(chat.ids(STORY, early_stopping=when, **beams)) for when in (True, False, "never")]
    assert lengths == sorted(set(lengths))


@effect
def num_beams(chat: Chat) -> None:
    def total(output: dict[str, Any]) -> float:
        return float(sum(output["logprobs"]))

    settings = {"output_scores": True, "max_new_tokens": 12, "length_penalty": 0.0}
    greedy, searched = (chat.details("He opened the door and", num_beams=beams, **settings)[0] for beams in (1, 6))
    assert total(searched) > total(greedy) + 1


@effect
def num_beam_groups(chat: Chat) -> None:
    beams = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8}
    plain = chat.details(STORY, **beams)
    grouped = chat.details(STORY, num_beam_groups=4, diversity_penalty=20.0, **beams)
    assert len({output["token_ids"][0] for output in plain}) < 4
    assert len({output["token_ids"][0] for output in grouped}) == 4


@effect
def diversity_penalty(chat: Chat) -> None:
    beams = {"num_beams": 2, "num_beam_groups": 2, "num_return_sequences": 2, "max_new_tokens": 8}
    alike, different = (chat.details(STORY, diversity_penalty=penalty, **beams) for penalty in (0.001, 20.0))
    assert alike[0]["token_ids"] == alike[1]["token_ids"]
    assert all(a != b for a, b in zip(different[0]["token_ids"], different[1]["token_ids"], strict=True))


@effect
def temperature(chat: Chat) -> None:
    plain, hot = chat.first(), chat.first(temperature=2.0)
    a, b = itertools.islice(plain, 2)
    assert math.log(hot[a] / hot[b]) == pytest.approx(math.log(plain[a] / plain[b]) / 2, rel=1e-4)
    assert chat(STORY, do_sample=True, temperature=0, max_new_tokens=8) == chat(STORY, max_new_tokens=8)


@effect
def top_k(chat: Chat) -> None:
    plain, cut = chat.first(), chat.first(top_k=3)
    assert list(cut) == list(plain)[:3]
    assert sum(cut.values()) == pytest.approx(1)


def nucleus(probabilities: dict[int, float], mass: float) -> list[int]:
    """Return the most likely tokens whose cumulative probability reaches `mass`."""
    reached = itertools.accumulate(probabilities.values(), initial=0.0)
    return [token for token, before in zip(probabilities, reached, strict=False) if before < mass]


@effect
def top_p(chat: Chat) -> None:
    plain = chat.first()
    mass = 0.9 * sum(list(plain.values())[:4])
    assert list(chat.first(top_p=mass)) == nucleus(plain, mass)


@effect
def typical_p(chat: Chat) -> None:
    # The most typical tokens that reach a probability of 0.2 are not the most likely ones.
    plain, cut = chat.first(), chat.first(typical_p=0.2)
    assert list(cut) != list(plain)
    assert sum(cut.values()) <= 1 + 1e-6


@effect
def min_p(chat: Chat) -> None:
    plain = chat.first()
    bound = 0.3 * max(plain.values())
    assert set(chat.first(min_p=0.3)) == {token for token, share in plain.items() if share >= bound}


@effect
def epsilon_cutoff(chat: Chat) -> None:
    plain = chat.first()
    bound = sorted(plain.values())[-3] * 0.99
    assert set(chat.first(epsilon_cutoff=bound)) == {token for token, share in plain.items() if share >= bound}


@effect
def eta_cutoff(chat: Chat) -> None:
    plain, cut = chat.first(), chat.first(eta_cutoff=0.5)
    most_likely = next(iter(plain))
    assert cut[most_likely] > plain[most_likely]


@effect
def repetition_penalty(chat: Chat) -> None:
    counted = "one two three one two three one two three one two"
    assert chat.ids(counted, max_new_tokens=1) == [chat.one(" three")]
    assert chat.ids(counted, max_new_tokens=1, repetition_penalty=5.0) != [chat.one(" three")]


@effect
def encoder_repetition_penalty(chat: Chat) -> None:
    counted = "one two three one two three one two three one two"
    assert chat.ids(counted, max_new_tokens=1, encoder_repetition_penalty=0.2) != [chat.one(" three")]


@effect
def length_penalty(chat: Chat) -> None:
    beams = {"num_beams": 3, "early_stopping": "never", "max_new_tokens": 24}
    assert len(chat.ids(length_penalty=-5.0, **beams)) < len(chat.ids(length_penalty=5.0, **beams))


def bigrams(ids: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(ids))


@effect
def no_repeat_ngram_size(chat: Chat) -> None:
    repeated = "a b c d a b c d a b"
    prompt_ids = chat.encode(repeated)
    plain = chat.ids(repeated, max_new_tokens=8)
    filtered = chat.ids(repeated, max_new_tokens=8, no_repeat_ngram_size=2)
    assert set(bigrams(prompt_ids)) & set(bigrams(prompt_ids[-1:] + plain))
    assert not set(bigrams(prompt_ids)) & set(bigrams(prompt_ids[-1:] + filtered))
    assert len(set(bigrams(filtered))) == len(bigrams(filtered))


@effect
def encoder_no_repeat_ngram_size(chat: Chat) -> None:
    repeated = "a b c d a b c d a b"
    prompt_ids = chat.encode(repeated)
    filtered = chat.ids(repeated, max_new_tokens=8, encoder_no_repeat_ngram_size=2)
    assert not set(bigrams(prompt_ids)) & set(bigrams(prompt_ids[-1:] + filtered))


@effect
def bad_words_ids(chat: Chat) -> None:
    plain = chat.ids(max_new_tokens=6)
    assert chat.ids(max_new_tokens=6, bad_words_ids=[plain[1:3]])[:3] != plain[:3]
    assert chat.ids(max_new_tokens=6, bad_words_ids=[plain[:1]])[0] != plain[0]


@effect
def suppress_tokens(chat: Chat) -> None:
    plain = chat.ids(max_new_tokens=6)
    assert not set(plain[:2]) & set(chat.ids(max_new_tokens=6, suppress_tokens=plain[:2]))


@effect
def begin_suppress_tokens(chat: Chat) -> None:
    plain = chat.ids(max_new_tokens=2)
    assert chat.ids(max_new_tokens=2, begin_suppress_tokens=plain[:1])[0] != plain[0]


@effect
def num_return_sequences(chat: Chat) -> None:
    output = chat(STORY, do_sample=True, num_return_sequences=3, max_new_tokens=5, return_dict_in_generate=True)
    assert len(output["Details"]) == 3
    assert output["Result"] == "".join(details["text"] for details in output["Details"])


@effect
def output_scores(chat: Chat) -> None:
    (details,) = chat(STORY, max_new_tokens=4, output_scores=True)["Details"]
    assert len(details["logprobs"]) == len(details["top_logprobs"]) == 4
    assert all(len(step) == 10 for step in details["top_logprobs"])
    # Greedy search selects the most likely token.
    assert [step[0]["token_id"] for step in details["top_logprobs"]] == details["token_ids"]
    assert [step[0]["logprob"] for step in details["top_logprobs"]] == pytest.approx(details["logprobs"])


@effect
def return_dict_in_generate(chat: Chat) -> None:
    assert set(chat(STORY, max_new_tokens=3)) == {"Result"}
    output = chat(STORY, max_new_tokens=3, return_dict_in_generate=True)
    (details,) = output["Details"]
    assert details == {
        "text": output["Result"],
        "token_ids": details["token_ids"],
        "finish_reason": "length",
        "prompt_tokens": len(chat.encode(STORY)),
        "completion_tokens": 3,
    }


@effect
def pad_token_id(chat: Chat) -> None:
    beams = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0, "max_new_tokens": 16}
    outputs = chat.details(pad_token_id=chat.one(" pad"), **beams)
    lengths = {output["completion_tokens"] for output in outputs}
    assert len(lengths) > 1
    for output in outputs:
        padding = output["token_ids"][output["completion_tokens"] :]
        assert padding == [chat.one(" pad")] * (max(lengths) - output["completion_tokens"])


@effect
def eos_token_id(chat: Chat) -> None:
    plain = chat.ids()
    for ends in (plain[2], [plain[4], plain[2]]):
        details = chat.details(eos_token_id=ends)[0]
        assert details["token_ids"] == plain[:3]
        assert details["finish_reason"] == "stop"


@effect
def forced_bos_token_id(chat: Chat) -> None:
    forced = chat.one(" zebra")
    assert chat.ids("Hello", max_new_tokens=3)[0] != forced
    assert chat.ids("Hello", max_new_tokens=3, forced_bos_token_id=forced)[0] == forced


@effect
def forced_eos_token_id(chat: Chat) -> None:
    forced = chat.one(" zebra")
    assert chat.ids(STORY, max_new_tokens=4)[-1] != forced
    assert chat.ids(STORY, max_new_tokens=4, forced_eos_token_id=forced)[-1] == forced


@effect
def remove_invalid_values(chat: Chat) -> None:
    overflowing = {"repetition_penalty": 1e-39, "max_new_tokens": 3, "min_new_tokens": 3}
    refused = chat.server.chat(QUESTION, **overflowing)
    assert refused.status_code == 400
    assert "remove_invalid_values" in refused.json()["detail"]
    assert len(chat.ids(remove_invalid_values=True, **overflowing)) == 3


@effect
def generate_kwargs(chat: Chat) -> None:
    kwargs: dict[str, Any] | None
    for kwargs in (None, {}):
        response = chat.server.chat("word " * 180, generate_kwargs=kwargs, return_full_text=False)
        assert response.status_code == 200


@pytest.mark.parametrize("name", EFFECTS)
def test_parameter_has_an_effect(name: str, chat: Chat) -> None:
    EFFECTS[name](chat)


def test_every_parameter_has_an_effect_test() -> None:
    assert set(EFFECTS) == set(ChatRequest.model_fields) | set(GenerateKwargs.model_fields)
