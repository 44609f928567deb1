"""From OpenAI's requests to those of the engine."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from werkzeug.exceptions import NotFound

from app.api.chat.request import Limits, RequestError
from app.api.openai.request import chat_request, check_model, completion_requests, conversation, several
from app.api.openai.schema import ChatCompletionRequest, ChatMessage, CompletionRequest
from app.engine.sampling.structured_output import Grammars
from app.settings import Settings
from app.tokenizer import Tokenizer

LIMITS = Limits(512, 49152, (0, 2), 0, 0, Settings(model=Path(), name="demo", max_list=3, max_messages=4))


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer.to_json(), LIMITS.vocabulary, LIMITS.eos_token_ids)


def schema(content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": content}}


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "Hello"}]} | fields)


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("tags", ["<|end|><|assistant|>", "<|user|>\n", "<|system|>", "<|endoftext|>"])
def test_tags_inside_a_message_are_text_in_every_role(tokenizer: Tokenizer, role: str, tags: str) -> None:
    ids = conversation([ChatMessage.model_validate({"role": role, "content": f"a{tags}b"})], tokenizer, LIMITS)
    inside = tokenizer.encode_plain(f"a{tags}b")
    name = "system" if role == "developer" else role
    around = (tokenizer.encode(f"<|{name}|>\n"), tokenizer.encode("<|end|>\n<|assistant|>\n"))
    assert ids == [*around[0], *inside, *around[1]]
    assert not set(inside) & tokenizer.control_ids


def test_no_role_is_dropped(tokenizer: Tokenizer) -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    ids = conversation([ChatMessage.model_validate({"role": r, "content": c}) for r, c in turns], tokenizer, LIMITS)
    assert ids == tokenizer.encode(
        "<|system|>\ns<|end|>\n<|user|>\nu<|end|>\n<|assistant|>\na<|end|>\n<|user|>\nv<|end|>\n<|assistant|>\n"
    )


def test_what_is_not_asked_for_has_openais_defaults(tokenizer: Tokenizer, grammars: Grammars) -> None:
    wanted = chat_request("id", chat(), tokenizer, LIMITS, grammars)
    assert wanted.form is None
    assert wanted.max_length == 512
    assert wanted.eos_token_ids == (0, 2)
    assert wanted.logprobs is None
    kwargs = wanted.kwargs
    assert (kwargs.sampled, kwargs.temperature, kwargs.top_k, kwargs.top_p, kwargs.seed) == (True, 1, 0, 1, None)


def test_what_is_asked_for_arrives(tokenizer: Tokenizer, grammars: Grammars) -> None:
    asked = chat(
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
    wanted = chat_request("id", asked, tokenizer, LIMITS, grammars)
    assert wanted.max_new_tokens == 7
    assert (wanted.logprobs, wanted.logit_bias) == (0, {5: -100, 17: 2.5})
    assert (wanted.presence_penalty, wanted.frequency_penalty) == (1, -1)
    kwargs = wanted.kwargs
    assert (kwargs.num_return_sequences, kwargs.temperature, kwargs.top_p) == (3, 0.5, 0.9)
    assert kwargs.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "two names of one thing"),
        ({"max_tokens": 512}, "max_tokens", "ask for at most 50"),
        ({"n": 17}, "n", "CHAT_MAX_SEQUENCES allows 16"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "tokens 0 to 49151"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
        ({"logit_bias": {"1": 1, "2": 1, "3": 1, "4": 1}}, "logit_bias", "CHAT_MAX_LIST allows 3"),
        ({"messages": [{"role": "user", "content": "x"}] * 5}, "messages", "CHAT_MAX_MESSAGES allows 4"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, None, "the context 512"),
        ({"response_format": schema({"type": "strin"})}, "response_format", "Invalid type: strin"),
        ({"response_format": schema({"type": "object", "unevaluatedProperties": False})}, "response_format", "uneval"),
        ({"response_format": schema({"$ref": "#/$defs/none"})}, "response_format", "does not exist"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_words(
    tokenizer: Tokenizer, grammars: Grammars, fields: dict[str, Any], field: str | None, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as error:
        chat_request("id", chat(**fields), tokenizer, LIMITS, grammars)
    assert error.value.field == field


def test_an_answer_of_a_form_is_asked_for_by_kind(tokenizer: Tokenizer, grammars: Grammars) -> None:
    for wanted, formed in (({"type": "text"}, False), ({"type": "json_object"}, True), (schema({}), True)):
        request = chat_request("id", chat(response_format=wanted), tokenizer, LIMITS, grammars)
        assert (request.form is not None) is formed


def test_another_model_is_not_found() -> None:
    check_model("demo", LIMITS)
    check_model(None, LIMITS)
    with pytest.raises(NotFound, match="ask for 'demo'"):
        check_model("gpt-4", LIMITS)


@pytest.mark.parametrize(
    ("prompt", "each"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
    ids=str,
)
def test_a_prompt_is_one_or_several(tokenizer: Tokenizer, prompt: Any, each: list[Any]) -> None:
    assert several(prompt) == each
    wanted = completion_requests("id", CompletionRequest(prompt=prompt), tokenizer, LIMITS)
    assert [list(one.prompt_ids) for one in wanted] == [
        tokenizer.encode(one) if isinstance(one, str) else one for one in each
    ]
    assert {one.max_new_tokens for one in wanted} == {16}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": ""}, "no tokens"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": [[]]}, "no tokens"),
        ({"prompt": [49152]}, "names token 49152"),
        ({"prompt": ["a"] * 9, "n": 2}, "9 prompts with 2 answers"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "exclude each other"),
    ],
    ids=str,
)
def test_completions_that_cannot_work_are_refused_in_words(
    tokenizer: Tokenizer, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        completion_requests("id", CompletionRequest.model_validate(fields), tokenizer, LIMITS)
