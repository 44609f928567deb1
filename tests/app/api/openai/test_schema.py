"""Every field of OpenAI's requests is served or refused by name, and the documents say so."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import BaseModel, ValidationError

from app.api.openai.schema import ChatCompletionRequest, CompletionRequest

# Fields that are refused, each with a value that a caller could send; all others of the API are served.
REFUSED: dict[type[BaseModel], dict[str, Any]] = {
    ChatCompletionRequest: {
        "audio": {"voice": "alloy", "format": "wav"},
        "function_call": "auto",
        "functions": [{"name": "f"}],
        "metadata": {"a": "b"},
        "moderation": {"model": "m"},
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "verbosity": "low",
        "web_search_options": {},
    },
    CompletionRequest: {"best_of": 2, "suffix": "x"},
}
LEAST: dict[type[BaseModel], dict[str, Any]] = {
    ChatCompletionRequest: {"messages": [{"role": "user", "content": "Hello"}]},
    CompletionRequest: {"prompt": "Hello"},
}
THEIRS = {
    ChatCompletionRequest: chat_create_params.CompletionCreateParamsBase,
    CompletionRequest: completion_create_params.CompletionCreateParamsBase,
}


@pytest.mark.parametrize("ours", LEAST)
def test_each_field_of_the_api_is_either_served_or_refused(ours: type[BaseModel]) -> None:
    assert set(ours.model_fields) | set(REFUSED[ours]) == set(THEIRS[ours].__annotations__) | {"stream"}
    assert not set(ours.model_fields) & set(REFUSED[ours])


@pytest.mark.parametrize(("ours", "field"), [(ours, field) for ours, fields in REFUSED.items() for field in fields])
def test_a_field_that_is_not_served_is_named(ours: type[BaseModel], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        ours.model_validate(LEAST[ours] | {field: REFUSED[ours][field]})
    assert error.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(("ours", "field"), [(ours, field) for ours in LEAST for field in ours.model_fields])
def test_null_is_the_default_of_each_field_that_has_one(ours: type[BaseModel], field: str) -> None:
    if ours.model_fields[field].is_required():
        with pytest.raises(ValidationError, match=field):
            ours.model_validate(LEAST[ours] | {field: None})
    else:
        assert ours.model_validate(LEAST[ours] | {field: None}) == ours.model_validate(LEAST[ours])


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
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("stream_options", {"include_obfuscation": True}),
        ("messages", []),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": "x", "name": "y"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
    ],
    ids=str,
)
def test_a_value_that_is_not_served_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        ChatCompletionRequest.model_validate(LEAST[ChatCompletionRequest] | {field: value})
    assert {problem["loc"][0] for problem in error.value.errors()} == {field}


def test_the_parts_of_a_message_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": parts}]})
    assert [message.text for message in asked.messages] == ["ab"]


def test_the_document_lists_every_field_that_is_served_and_that_is_not() -> None:
    text = (Path(__file__).parents[4] / "docs/openai.md").read_text()
    _, chat, rest = text.split("\n## ", 2)
    for ours, section in ((ChatCompletionRequest, chat), (CompletionRequest, rest)):
        served = {name: field.description for name, field in ours.model_fields.items()}
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, re.MULTILINE)
        assert dict(rows) == served | dict.fromkeys(REFUSED[ours], "400")
