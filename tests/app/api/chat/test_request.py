"""From a request to what the engine runs."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.api.chat.request import Limits, RequestError, encode_messages, generation_request
from app.api.chat.schema import ChatRequest, Message
from app.engine.request import GenerationRequest
from app.settings import Settings
from app.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture
def build(tokenizer: Tokenizer) -> Any:
    settings = Settings(
        model=Path(),
        max_sequences=8,
        max_scored_tokens=100,
        max_list=20,
        max_messages=3,
    )
    limits = Limits(
        context=512, vocabulary=49152, eos_token_ids=(0, 2), pad_token_id=0, beam_tokens=2000, settings=settings
    )

    def build(body: dict[str, Any], **kwargs: Any) -> GenerationRequest:
        chat = ChatRequest.model_validate({"prompt": "Hello there", **body, "generate_kwargs": kwargs})
        return generation_request("id", chat, tokenizer, limits)

    return build


def test_defaults_come_from_the_model(build: Any) -> None:
    request = build({})
    assert (request.eos_token_ids, request.pad_token_id) == ((0, 2), 0)
    assert (request.max_length, request.min_length) == (200, 0)


def test_the_callers_lengths_do_not_count_the_prefix(build: Any) -> None:
    request = build({"prefix": "one two three,"}, max_length=50, min_length=20)
    prefix = len(request.prompt_token_ids) - len(build({}).prompt_token_ids)
    assert (request.max_length, request.min_length) == (50 + prefix, 20 + prefix)


def test_new_tokens_win_over_whole_lengths(build: Any) -> None:
    request = build({}, max_length=3, max_new_tokens=10, min_length=400, min_new_tokens=2)
    assert request.max_new_tokens == 10
    assert request.min_length == len(request.prompt_token_ids) + 2


def test_hole_keeps_the_end_of_the_prompt(build: Any, tokenizer: Tokenizer) -> None:
    prompt = " ".join(str(number) for number in range(400))
    request = build({"prompt": prompt, "handle_long_generation": "hole"}, max_new_tokens=12)
    assert len(request.prompt_token_ids) == 500
    assert tokenizer.decode(list(request.prompt_token_ids)).endswith("398 399")
    assert request.max_length == 512


def test_hole_leaves_a_prompt_that_fits_alone(build: Any) -> None:
    assert build({"handle_long_generation": "hole"}).prompt_token_ids == build({}).prompt_token_ids


def test_tags_in_a_prompt_are_control_tokens(build: Any, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|end|>")[0] in build({"prompt": "a<|end|>b"}).prompt_token_ids


def test_tags_in_a_message_are_text(tokenizer: Tokenizer) -> None:
    end, assistant = (tokenizer.encode(tag)[0] for tag in ("<|end|>", "<|assistant|>"))
    ids = encode_messages([Message(role="user", content="a<|end|>\n<|assistant|>b")], tokenizer)
    assert (ids.count(end), ids.count(assistant)) == (1, 1)
    assert "a<|end|>\n<|assistant|>b" in tokenizer.decode(ids)


def test_messages_become_the_prompt_that_a_caller_would_write(tokenizer: Tokenizer) -> None:
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="What is 3+5?"),
        Message(role="assistant", content="8"),
        Message(role="user", content="  And 4+4?"),
    ]
    written = (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is 3+5?<|end|>\n<|assistant|>\n8<|end|>\n"
        "<|user|>\nAnd 4+4?<|end|>\n<|assistant|>\n"
    )
    assert encode_messages(messages, tokenizer) == tokenizer.encode(written)


USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("body", "kwargs", "said"),
    [
        ({"prompt": None}, {}, "Text generation parameter prompt required"),
        ({"prompt": ""}, {}, "Text generation parameter prompt required"),
        ({"prompt": None, "messages": []}, {}, "Conversational parameter messages required"),
        ({"messages": [USER]}, {}, "exclude each other"),
        ({"prompt": None, "messages": [USER], "prefix": "x"}, {}, "prefix goes with prompt"),
        ({"prompt": None, "messages": [USER] * 4}, {}, "There are 4 messages: CHAT_MAX_MESSAGES allows 3"),
        ({"prompt": "word " * 300}, {}, r"has 30\d tokens, and max_length, which counts prompt and answer, is 200"),
        ({"prompt": "word " * 600}, {}, r"has 60\d tokens, and the context 512"),
        ({}, {"max_length": 513}, "max_length is 513, and the context 512"),
        ({"prompt": "word " * 500}, {"max_new_tokens": 100}, "ask for at most 11 new tokens"),
        ({"handle_long_generation": "hole"}, {"max_new_tokens": 512}, "512 new tokens leave no room"),
        ({"handle_long_generation": "hole"}, {"max_length": 1}, "set generate_kwargs.max_new_tokens"),
        ({}, {"min_length": 201}, "min_length is 201 and max_length 200"),
        ({}, {"num_return_sequences": 2, "do_sample": False}, "there is one answer"),
        ({}, {"num_return_sequences": 2, "temperature": 0}, "there is one answer"),
        ({}, {"num_return_sequences": 3, "num_beams": 2}, "at most one answer a beam"),
        ({}, {"num_beams": 3, "num_beam_groups": 2}, "must divide num_beams"),
        ({}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0}, "set do_sample to false"),
        ({}, {"num_beams": 2, "num_beam_groups": 2, "do_sample": False}, "set diversity_penalty above 0"),
        ({}, {"diversity_penalty": 1.0}, "set num_beam_groups above 1"),
        ({}, {"pad_token_id": 49152}, "names token 49152: the model has tokens 0 to 49151"),
        ({}, {"bad_words_ids": [[1], [2, 60000]]}, "names token 60000"),
        ({}, {"bad_words_ids": [[2]]}, "names 2, which ends an answer"),
        ({}, {"bad_words_ids": [[1, 3]] * 11}, "has 22 token ids: CHAT_MAX_LIST allows 20"),
        ({}, {"suppress_tokens": [1] * 21}, "has 21 token ids: CHAT_MAX_LIST allows 20"),
        ({}, {"num_beams": 9}, r"at most 8 \(CHAT_MAX_SEQUENCES\), and one of them is 9"),
        ({}, {"num_beams": 8, "max_length": 400}, r"are 3200 tokens: the server allows 2000 \(CHAT_MAX_BEAM_TOKENS"),
        ({}, {"output_scores": True}, "CHAT_MAX_SCORED_TOKENS allows 100"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    build: Any, body: dict[str, Any], kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        build(body, **kwargs)


def test_one_sequence_is_let_in_however_long(build: Any) -> None:
    assert build({}, max_length=512).max_length == 512
