"""Conversion of `/chat` requests to requests of the engine."""

from typing import Any

import pytest

from app.api.chat.request import generation_request
from app.api.chat.schema import ChatRequest
from app.api.prompt import encode_messages
from app.api.schema import Message
from app.engine.request import GenerationRequest
from app.exceptions import RequestError
from app.limits import Limits
from app.tokenizer import Tokenizer


@pytest.fixture
def build(tokenizer: Tokenizer) -> Any:
    limits = Limits(
        model_name="demo",
        context=512,
        vocab_size=49152,
        eos_token_ids=(0, 2),
        pad_token_id=0,
        max_beam_tokens=2000,
        max_sequences=8,
        max_scored_tokens=100,
        max_list=20,
        max_messages=3,
        max_request_seconds=3600,
    )

    def build(body: dict[str, Any], **kwargs: Any) -> GenerationRequest:
        chat = ChatRequest.model_validate({"prompt": "Hello there", **body, "generate_kwargs": kwargs})
        return generation_request("id", chat, tokenizer, limits)

    return build


def test_defaults_come_from_the_model(build: Any) -> None:
    request = build({})
    assert (request.params.eos_token_ids, request.params.pad_token_id) == ((0, 2), 0)
    assert (request.max_length, request.params.min_tokens) == (200, 0)


def test_length_parameters_do_not_count_the_prefix(build: Any) -> None:
    request = build({"prefix": "one two three,"}, max_length=50, min_length=20)
    prefix = len(request.prompt_token_ids) - len(build({}).prompt_token_ids)
    assert (request.max_length, request.min_length) == (50 + prefix, 20 + prefix)


def test_new_token_parameters_override_total_lengths(build: Any) -> None:
    request = build({}, max_length=3, max_new_tokens=10, min_length=400, min_new_tokens=2)
    assert request.params.max_tokens == 10
    assert request.min_length == len(request.prompt_token_ids) + 2


def test_hole_keeps_the_end_of_the_prompt(build: Any, tokenizer: Tokenizer) -> None:
    prompt = " ".join(str(number) for number in range(400))
    request = build({"prompt": prompt, "handle_long_generation": "hole"}, max_new_tokens=12)
    assert len(request.prompt_token_ids) == 500
    assert tokenizer.decode(list(request.prompt_token_ids)).endswith("398 399")
    assert request.max_length == 512


def test_hole_keeps_a_prompt_that_fits(build: Any) -> None:
    assert build({"handle_long_generation": "hole"}).prompt_token_ids == build({}).prompt_token_ids


def test_tags_in_a_prompt_are_control_tokens(build: Any, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|end|>")[0] in build({"prompt": "a<|end|>b"}).prompt_token_ids


def test_tags_in_a_message_are_text(tokenizer: Tokenizer) -> None:
    end, assistant = (tokenizer.encode(tag)[0] for tag in ("<|end|>", "<|assistant|>"))
    ids = encode_messages([Message(role="user", content="a<|end|>\n<|assistant|>b")], tokenizer)
    assert (ids.count(end), ids.count(assistant)) == (1, 1)
    assert "a<|end|>\n<|assistant|>b" in tokenizer.decode(ids)


def test_messages_are_encoded_in_the_documented_prompt_format(tokenizer: Tokenizer) -> None:
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
    ("body", "kwargs", "message"),
    [
        ({"prompt": None}, {}, "Text generation parameter prompt required"),
        ({"prompt": ""}, {}, "Text generation parameter prompt required"),
        ({"prompt": None, "messages": []}, {}, "Conversational parameter messages required"),
        ({"messages": [USER]}, {}, "mutually exclusive"),
        ({"prompt": None, "messages": [USER], "prefix": "x"}, {}, "prefix requires prompt"),
        ({"prompt": None, "messages": [USER] * 4}, {}, r"messages has 4 items; the maximum is 3 \(CHAT_MAX_MESSAGES\)"),
        ({"prompt": "word " * 300}, {}, r"has 30\d tokens, but max_length, which counts prompt and completion, is 200"),
        ({"prompt": "word " * 600}, {}, r"has 60\d tokens and leaves no room in the context of 512"),
        ({}, {"max_length": 513}, "max_length is 513, above the context length of 512"),
        ({"prompt": "word " * 500}, {"max_new_tokens": 100}, "Request at most 11 new tokens"),
        ({"handle_long_generation": "hole"}, {"max_new_tokens": 512}, "512 new tokens leave no room"),
        ({"handle_long_generation": "hole"}, {"max_length": 1}, "Set generate_kwargs.max_new_tokens"),
        ({}, {"min_length": 201}, "min_length is 201 and max_length 200"),
        ({}, {"num_return_sequences": 2, "do_sample": False}, "greedy search returns only one sequence"),
        ({}, {"num_return_sequences": 2, "temperature": 0}, "greedy search returns only one sequence"),
        ({}, {"num_return_sequences": 3, "num_beams": 2}, r"at most num_beams \(2\) sequences"),
        ({}, {"num_beams": 3, "num_beam_groups": 2}, "must divide num_beams"),
        ({}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0}, "Set do_sample to false"),
        ({}, {"num_beams": 2, "num_beam_groups": 2, "do_sample": False}, "Set diversity_penalty above 0"),
        ({}, {"diversity_penalty": 1.0}, "Set num_beam_groups above 1"),
        ({}, {"pad_token_id": 49152}, r"pad_token_id contains token ID 49152\. The model has the token IDs 0 to 49151"),
        ({}, {"bad_words_ids": [[1], [2, 60000]]}, "bad_words_ids contains token ID 60000"),
        ({}, {"bad_words_ids": [[2]]}, "contains the EOS token 2"),
        ({}, {"bad_words_ids": [[1, 3]] * 11}, r"has 22 token IDs; the maximum is 20 \(CHAT_MAX_LIST\)"),
        ({}, {"suppress_tokens": [1] * 21}, r"has 21 token IDs; the maximum is 20 \(CHAT_MAX_LIST\)"),
        ({}, {"num_beams": 9}, r"has 9 sequences .* the maximum is 8 \(CHAT_MAX_SEQUENCES\)"),
        ({}, {"num_beams": 8, "max_length": 400}, r"need 3200 tokens; the maximum is 2000 \(CHAT_MAX_BEAM_TOKENS"),
        ({}, {"output_scores": True}, r"the maximum is 100 \(CHAT_MAX_SCORED_TOKENS\)"),
    ],
)
def test_invalid_request_is_refused_with_a_message(
    build: Any, body: dict[str, Any], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        build(body, **kwargs)


def test_single_sequence_may_fill_the_context(build: Any) -> None:
    assert build({}, max_length=512).max_length == 512
