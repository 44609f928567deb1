"""Every field of OpenAI's requests is supported or refused by name, as documented."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import BaseModel, ValidationError

from app.api.openai.schema import ChatCompletionRequest, CompletionRequest

# Refused fields, each with a valid value of OpenAI's API. All other fields are supported.
REFUSED: dict[type[BaseModel], dict[str, Any]] = {
    ChatCompletionRequest: {
        "audio": {"voice": "alloy", "format": "wav"},
        "moderation": {"model": "m"},
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "verbosity": "low",
        "web_search_options": {},
    },
    CompletionRequest: {},
}
# Fields of vLLM's API that clients send with values that change nothing.
VLLM_FIELDS = {"add_special_tokens", "extra_body", "repetition_penalty"}
MINIMAL: dict[type[BaseModel], dict[str, Any]] = {
    ChatCompletionRequest: {"messages": [{"role": "user", "content": "Hello"}]},
    CompletionRequest: {"prompt": "Hello"},
}
OPENAI_PARAMS = {
    ChatCompletionRequest: chat_create_params.CompletionCreateParamsBase,
    CompletionRequest: completion_create_params.CompletionCreateParamsBase,
}


@pytest.mark.parametrize("model", MINIMAL)
def test_each_field_of_the_api_is_supported_or_refused(model: type[BaseModel]) -> None:
    documented = set(OPENAI_PARAMS[model].__annotations__) | {"stream"} | VLLM_FIELDS
    assert set(model.model_fields) | set(REFUSED[model]) == documented
    assert not set(model.model_fields) & set(REFUSED[model])


@pytest.mark.parametrize(("model", "field"), [(model, field) for model, fields in REFUSED.items() for field in fields])
def test_unsupported_field_is_named(model: type[BaseModel], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        model.model_validate(MINIMAL[model] | {field: REFUSED[model][field]})
    assert error.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(("model", "field"), [(model, field) for model in MINIMAL for field in model.model_fields])
def test_null_selects_the_default_of_optional_fields(model: type[BaseModel], field: str) -> None:
    if model.model_fields[field].is_required():
        with pytest.raises(ValidationError, match=field):
            model.model_validate(MINIMAL[model] | {field: None})
    else:
        assert model.model_validate(MINIMAL[model] | {field: None}) == model.model_validate(MINIMAL[model])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "grammar"}),
        ("response_format", {"type": "json_object", "schema": {}}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}),
        ("modalities", ["text", "audio"]),
        ("modalities", ["audio"]),
        ("store", True),
        ("service_tier", "priority"),
        ("tool_choice", "auto"),
        ("n", 0),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_logprobs", 21),
        ("logit_bias", {"5": 101}),
        ("stop", ["a"] * 17),
        ("stop", ""),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("stream_options", {"include_obfuscation": True}),
        ("messages", []),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": "x", "name": 1}]),
        ("messages", [{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
        ("messages", [{"role": "assistant", "refusal": "I cannot."}]),
        ("function_call", "auto"),
        ("functions", [{"name": "f"}]),
        ("metadata", {"a": "b"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("repetition_penalty", 1.1),
        ("add_special_tokens", True),
        ("extra_body", {"top_k": 1}),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
    ],
    ids=str,
)
def test_unsupported_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        ChatCompletionRequest.model_validate(MINIMAL[ChatCompletionRequest] | {field: value})
    assert {problem["loc"][0] for problem in error.value.errors()} == {field}


@pytest.mark.parametrize(("field", "value"), [("best_of", 2), ("suffix", "x")])
def test_unsupported_value_of_a_completion_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        CompletionRequest.model_validate({"prompt": "Hello", field: value})
    assert error.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (ChatCompletionRequest, {"stream": True, "stream_options": {"include_obfuscation": False}}),
        (ChatCompletionRequest, {"tools": [], "parallel_tool_calls": False, "functions": [], "function_call": "none"}),
        (
            ChatCompletionRequest,
            {"metadata": {}, "extra_body": {}, "repetition_penalty": 1, "add_special_tokens": False},
        ),
        (CompletionRequest, {"best_of": 1, "suffix": "", "repetition_penalty": 1.0}),
    ],
    ids=str,
)
def test_value_without_effect_is_accepted(model: type[BaseModel], fields: dict[str, Any]) -> None:
    model.model_validate(MINIMAL[model] | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "x", "refusal": None, "tool_calls": None, "function_call": None, "audio": None, "parsed": None},
        {"content": "x", "annotations": [], "tool_calls": []},
        {"content": "x", "unknown": None},
        {"content": None, "tool_calls": []},
        {},
        {"content": [{"type": "text", "text": "x"}]},
        {"content": "x", "name": "assistant_1"},
    ],
    ids=str,
)
def test_message_that_a_server_returned_is_accepted(fields: dict[str, Any]) -> None:
    body = ChatCompletionRequest.model_validate({"messages": [{"role": "assistant"} | fields]})
    assert body.messages[0].text == ("x" if fields.get("content") else "")


def test_message_parts_are_concatenated() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": parts}]})
    assert [message.text for message in body.messages] == ["ab"]


def test_documentation_lists_supported_and_refused_fields() -> None:
    text = (Path(__file__).parents[4] / "docs/openai.md").read_text()
    _, chat, rest = text.split("\n## ", 2)
    for model, section in ((ChatCompletionRequest, chat), (CompletionRequest, rest)):
        supported = {name: field.description for name, field in model.model_fields.items()}
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, re.MULTILINE)
        assert dict(rows) == supported | dict.fromkeys(REFUSED[model], "400")
