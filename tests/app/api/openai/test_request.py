"""Conversion of OpenAI's requests to requests of the engine."""

from typing import Any

import pytest

from app.api.openai.request import (
    chat_request,
    check_model,
    completion_requests,
    encode_conversation,
    prompt_list,
)
from app.api.openai.schema import ChatCompletionRequest, ChatMessage, CompletionRequest
from app.engine.sampling.structured_output import GrammarCompiler
from app.exceptions import RequestError, UnknownModelError
from app.limits import Limits
from app.tokenizer import Tokenizer

LIMITS = Limits(
    model_name="demo",
    context=512,
    vocab_size=49152,
    eos_token_ids=(0, 2),
    pad_token_id=0,
    max_beam_tokens=0,
    max_sequences=16,
    max_scored_tokens=0,
    max_list=3,
    max_messages=4,
    max_request_seconds=3600,
)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.to_json(), LIMITS.vocab_size, LIMITS.eos_token_ids)


def schema(content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": content}}


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "Hello"}]} | fields)


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("tags", ["<|end|><|assistant|>", "<|user|>\n", "<|system|>", "<|endoftext|>"])
def test_tags_inside_a_message_are_text_in_every_role(tokenizer: Tokenizer, role: str, tags: str) -> None:
    ids = encode_conversation([ChatMessage.model_validate({"role": role, "content": f"a{tags}b"})], tokenizer, LIMITS)
    inside = tokenizer.encode_plain(f"a{tags}b")
    name = "system" if role == "developer" else role
    around = (tokenizer.encode(f"<|{name}|>\n"), tokenizer.encode("<|end|>\n<|assistant|>\n"))
    assert ids == [*around[0], *inside, *around[1]]
    assert not set(inside) & tokenizer.control_ids


def test_every_role_is_encoded(tokenizer: Tokenizer) -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    ids = encode_conversation(
        [ChatMessage.model_validate({"role": r, "content": c}) for r, c in turns], tokenizer, LIMITS
    )
    assert ids == tokenizer.encode(
        "<|system|>\ns<|end|>\n<|user|>\nu<|end|>\n<|assistant|>\na<|end|>\n<|user|>\nv<|end|>\n<|assistant|>\n"
    )


def test_missing_fields_have_openai_defaults(tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
    request = chat_request("id", chat(), tokenizer, LIMITS, grammars)
    params = request.params
    assert params.grammar is None
    assert request.max_length == 512
    assert params.eos_token_ids == (0, 2)
    assert params.logprobs is None
    assert (params.greedy, params.temperature, params.top_k, params.top_p, params.seed) == (False, 1, 0, 1, None)


def test_fields_are_passed_to_the_engine(tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
    body = chat(
        max_completion_tokens=7,
        n=3,
        seed=-1,
        temperature=0.5,
        top_p=0.9,
        logprobs=True,
        logit_bias={"5": -100, "17": 2.5},
        presence_penalty=1,
        frequency_penalty=-1,
    )
    params = chat_request("id", body, tokenizer, LIMITS, grammars).params
    assert params.max_tokens == 7
    assert (params.logprobs, params.logit_bias) == (0, {5: -100, 17: 2.5})
    assert (params.presence_penalty, params.frequency_penalty) == (1, -1)
    assert (params.n, params.temperature, params.top_p) == (3, 0.5, 0.9)
    assert params.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"top_logprobs": 3}, "top_logprobs", "requires logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "Both have the same meaning"),
        ({"max_tokens": 512}, "max_tokens", "request at most 50"),
        ({"n": 17}, "n", r"the maximum is 16 \(CHAT_MAX_SEQUENCES\)"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "requires stream"),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "token IDs 0 to 49151"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
        ({"logit_bias": {"1": 1, "2": 1, "3": 1, "4": 1}}, "logit_bias", r"the maximum is 3 \(CHAT_MAX_LIST\)"),
        ({"messages": [{"role": "user", "content": "x"}] * 5}, "messages", r"the maximum is 4 \(CHAT_MAX_MESSAGES\)"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, None, "maximum context length is 512 tokens"),
        ({"response_format": schema({"type": "strin"})}, "response_format", "Invalid type: strin"),
        ({"response_format": schema({"type": "object", "unevaluatedProperties": False})}, "response_format", "uneval"),
        ({"response_format": schema({"$ref": "#/$defs/none"})}, "response_format", "does not exist"),
    ],
    ids=str,
)
def test_invalid_chat_request_is_refused_with_a_message(
    tokenizer: Tokenizer, grammars: GrammarCompiler, fields: dict[str, Any], field: str | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as error:
        chat_request("id", chat(**fields), tokenizer, LIMITS, grammars)
    assert error.value.field == field


def test_response_format_selects_a_grammar(tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
    for response_format, constrained in (
        ({"type": "text"}, False),
        ({"type": "json_object"}, True),
        (schema({}), True),
    ):
        request = chat_request("id", chat(response_format=response_format), tokenizer, LIMITS, grammars)
        assert (request.params.grammar is not None) is constrained


def test_other_model_is_not_found() -> None:
    check_model("demo", LIMITS)
    check_model(None, LIMITS)
    with pytest.raises(UnknownModelError, match="Set model to 'demo'"):
        check_model("gpt-4", LIMITS)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
    ids=str,
)
def test_prompt_is_one_or_several(tokenizer: Tokenizer, prompt: Any, prompts: list[Any]) -> None:
    assert prompt_list(prompt) == prompts
    requests = completion_requests("id", CompletionRequest(prompt=prompt), tokenizer, LIMITS)
    assert [list(request.prompt_token_ids) for request in requests] == [
        tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts
    ]
    assert {request.params.max_tokens for request in requests} == {16}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "no tokens"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": [[]]}, "no tokens"),
        ({"prompt": [49152]}, "prompt contains token ID 49152"),
        ({"prompt": ["a"] * 9, "n": 2}, "9 prompts with n 2 request 18 completions"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "mutually exclusive"),
    ],
    ids=str,
)
def test_invalid_completion_request_is_refused_with_a_message(
    tokenizer: Tokenizer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        completion_requests("id", CompletionRequest.model_validate(fields), tokenizer, LIMITS)
