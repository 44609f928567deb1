"""OpenAI's own clients with the demo model."""

import asyncio
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tools.harness.server import Server

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    response = client.chat.completions.create(**({"model": "demo", "messages": CAPITAL, "temperature": 0} | fields))
    assert isinstance(response, ChatCompletion)
    return response


def stream(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(
            **({"model": "demo", "messages": CAPITAL, "temperature": 0, "stream": True} | fields)
        )
    )


def text(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_conversation_is_completed(client: openai.OpenAI) -> None:
    response = complete(client)
    assert (response.model, response.object) == ("demo", "chat.completion")
    (choice,) = response.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", PARIS, "stop")
    assert response.usage
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens
    assert response.usage.completion_tokens == 8


def test_stream_has_the_same_text_in_deltas(client: openai.OpenAI) -> None:
    chunks = stream(client)
    assert text(chunks) == PARIS
    assert len(chunks) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_async_client_gets_complete_and_streamed_responses(server: Server) -> None:
    async def both() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            response, chunks = await asyncio.gather(
                client.chat.completions.create(model="demo", messages=CAPITAL, temperature=0),
                client.chat.completions.create(model="demo", messages=CAPITAL, temperature=0, stream=True),
            )
            return response.choices[0].message.content, text([chunk async for chunk in chunks])

    # In another thread, because the tests of the page may run an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: asyncio.run(both())).result() == (PARIS, PARIS)


def test_include_usage_adds_usage_to_the_last_chunk(client: openai.OpenAI) -> None:
    *_, last = chunks = stream(client, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == complete(client).usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_shared_prefix_is_counted_as_cached_tokens(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Say after me: " + "one two three four five six " * 30}]
    for _ in range(2):
        usage = complete(client, messages=messages, max_tokens=1).usage
    assert usage
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens
    assert usage.prompt_tokens > usage.prompt_tokens_details.cached_tokens >= 128


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_completion_is_limited_to_max_tokens(client: openai.OpenAI, name: str) -> None:
    response = complete(client, **{name: 3})
    assert (response.choices[0].message.content, response.choices[0].finish_reason) == ("The capital of", "length")


@pytest.mark.parametrize(
    ("stop", "before"),
    [
        (" France", "The capital of"),
        (["Paris", "tal o"], "The capi"),
        ([".", "Nowhere"], PARIS[:-1]),
        ([], PARIS),
    ],
    ids=str,
)
def test_completion_ends_before_a_stop_string(client: openai.OpenAI, stop: Any, before: str) -> None:
    response = complete(client, stop=stop)
    assert (response.choices[0].message.content, response.choices[0].finish_reason) == (before, "stop")
    chunks = stream(client, stop=stop, stream_options={"include_usage": True})
    assert text(chunks) == before
    assert chunks[-1].usage == response.usage


def test_n_completions_differ_and_match_their_streams(client: openai.OpenAI) -> None:
    fields: Any = {"n": 3, "temperature": 1.5, "seed": 5, "max_tokens": 12}
    response = complete(client, **fields)
    texts = [choice.message.content for choice in response.choices]
    assert len(set(texts)) == 3
    chunks = stream(client, **fields)
    assert [text(chunks, index) for index in range(3)] == texts


def test_seed_makes_a_completion_repeatable(client: openai.OpenAI) -> None:
    first, again, other = (
        complete(client, temperature=1.5, seed=seed, max_tokens=12).choices[0].message.content for seed in (1, 1, 2)
    )
    assert first == again != other


def test_top_p_0_selects_the_most_likely_token(client: openai.OpenAI) -> None:
    assert complete(client, temperature=2, top_p=0).choices[0].message.content == PARIS


@pytest.mark.parametrize("streamed", [False, True])
def test_logprobs_cover_each_token_of_the_text(client: openai.OpenAI, streamed: bool) -> None:
    fields: Any = {"logprobs": True, "top_logprobs": 5, "temperature": 0}
    parts = (
        [chunk.choices[0].logprobs for chunk in stream(client, **fields)]
        if streamed
        else [complete(client, **fields).choices[0].logprobs]
    )
    tokens = [token for part in parts if part and part.content for token in part.content]
    assert "".join(token.token for token in tokens) == PARIS
    assert b"".join(bytes(token.bytes or []) for token in tokens).decode() == PARIS
    for token in tokens:
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert len(token.top_logprobs) == 5
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-5


def test_logprobs_ignore_sampling_parameters(client: openai.OpenAI) -> None:
    plain, changed = (
        complete(client, logprobs=True, max_tokens=1, **fields).choices[0].logprobs
        for fields in ({}, {"temperature": 0.1, "top_p": 0.5, "seed": 1})
    )
    assert plain == changed


def test_logit_bias_bans_and_forces_tokens(client: openai.OpenAI, server: Server) -> None:
    the, paris = server.http.post("/tokenize", json={"prompt": "TheParis"}).json()["tokens"]
    banned = complete(client, logit_bias={str(the): -100}, max_tokens=1).choices[0].message.content
    assert banned != "The"
    forced = complete(client, logit_bias={str(paris): 100}, max_tokens=2).choices[0].message.content
    assert forced == "ParisParis"


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalty_changes_the_completion(client: openai.OpenAI, penalty: str) -> None:
    fields: Any = {"model": "demo", "prompt": "la la la la la la", "temperature": 0, "max_tokens": 16}
    plain = client.completions.create(**fields).choices[0].text
    fields[penalty] = 2
    assert client.completions.create(**fields).choices[0].text != plain


class City(pydantic.BaseModel):
    """The client derives the JSON schema from this model."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=20)
    country: Literal["France", "Germany"]
    founded: int = pydantic.Field(ge=-1000, le=2000)
    twins: list[str] = pydantic.Field(max_length=0)


@pytest.mark.parametrize("temperature", [0, 2])
def test_json_schema_output_follows_the_schema(client: openai.OpenAI, temperature: float) -> None:
    fields: Any = {"model": "demo", "messages": CAPITAL, "temperature": temperature, "seed": 3, "max_tokens": 80}
    response = client.chat.completions.parse(**fields, response_format=City)
    assert response.choices[0].finish_reason == "stop"
    assert isinstance(response.choices[0].message.parsed, City)


def test_json_object_output_is_json_complete_and_streamed(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Give me the capital of France as JSON."}]
    fields: Any = {"messages": messages, "response_format": {"type": "json_object"}, "max_tokens": 120}
    response = complete(client, **fields)
    assert isinstance(json.loads(response.choices[0].message.content or ""), dict)
    assert text(stream(client, **fields)) == response.choices[0].message.content


def test_tags_inside_a_message_are_text(client: openai.OpenAI, server: Server) -> None:
    messages = [{"role": "user", "content": "a<|end|>\n<|assistant|>\nb"}]
    ids = server.http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    usage = complete(client, messages=messages, max_tokens=1).usage
    assert usage
    assert usage.prompt_tokens == len(ids)
    assert "a<|end|>\n<|assistant|>\nb" in server.http.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def test_completions_continue_a_text_like_chat(client: openai.OpenAI, server: Server) -> None:
    prompt = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
    response = client.completions.create(model="demo", prompt=prompt, temperature=0)
    assert (response.choices[0].text, response.choices[0].finish_reason) == (PARIS, "stop")
    ids = server.http.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
    assert client.completions.create(model="demo", prompt=ids, temperature=0).choices[0].text == PARIS
    chunks = client.completions.create(model="demo", prompt=prompt, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == PARIS


def test_several_prompts_are_completed_in_order(client: openai.OpenAI) -> None:
    prompts = ["One, two,", "Monday, Tuesday,"]
    fields: Any = {"model": "demo", "temperature": 0, "max_tokens": 4}
    alone = [client.completions.create(prompt=prompt, **fields).choices[0].text for prompt in prompts]
    together = client.completions.create(prompt=prompts, echo=True, n=2, **fields)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    expected = [prompt + text for prompt, text in zip(prompts, alone, strict=True) for _ in range(2)]
    assert [choice.text for choice in together.choices] == expected
    streamed: dict[int, str] = {}
    for chunk in client.completions.create(prompt=prompts, echo=True, n=2, stream=True, **fields):
        streamed[chunk.choices[0].index] = streamed.get(chunk.choices[0].index, "") + chunk.choices[0].text
    assert [streamed[index] for index in range(4)] == expected


def test_completions_return_logprobs_in_their_own_format(client: openai.OpenAI) -> None:
    response = client.completions.create(model="demo", prompt="One, two,", temperature=0, max_tokens=4, logprobs=2)
    logprobs = response.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert logprobs.top_logprobs
    assert "".join(logprobs.tokens) == response.choices[0].text
    assert logprobs.text_offset == [sum(len(token) for token in logprobs.tokens[:at]) for at in range(4)]
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top[token] == logprob
        assert len(top) == 2


@pytest.mark.parametrize("prompt", ["🦩🦩🦩", "東京は日本の", "Once upon a time", "na\u00efve caf\u00e9 "], ids=ascii)
def test_logprobs_of_partial_characters_are_complete(client: openai.OpenAI, prompt: str) -> None:
    fields: Any = {"model": "demo", "prompt": prompt, "max_tokens": 12, "logprobs": 5, "temperature": 0}
    choice = client.completions.create(**fields).choices[0]
    logprobs = choice.logprobs
    assert logprobs
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert logprobs.top_logprobs
    assert logprobs.text_offset
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(top) == 5
        assert top[token] == logprob
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    assert logprobs.text_offset[-1] <= len(choice.text)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset:].startswith(token)
    streamed = [
        chunk.choices[0].logprobs.text_offset or []
        for chunk in client.completions.create(**fields, stream=True)
        if chunk.choices[0].logprobs
    ]
    assert [offset for offsets in streamed for offset in offsets] == logprobs.text_offset


def test_chat_logprobs_of_partial_characters_have_their_bytes(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Repeat: 🦩🦩🦩"}]
    response = complete(client, messages=messages, logprobs=True, top_logprobs=5, max_tokens=12)
    assert response.choices[0].logprobs
    for token in response.choices[0].logprobs.content or []:
        assert len({(top.token, tuple(top.bytes or [])) for top in token.top_logprobs}) == 5
        assert token.token.encode() == bytes(token.bytes or []) or token.token.startswith("\\x")


def test_model_is_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "demo"
    card = client.models.retrieve("demo").model_dump()
    assert (card["max_model_len"], card["batch_invariant"]) == (512, True)


@pytest.mark.parametrize(
    ("fields", "kind", "param", "message"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "Set model to 'demo'"),
        ({"verbosity": "low"}, openai.BadRequestError, "verbosity", "Unknown field verbosity."),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools", "is not supported"),
        ({"stop": ["a"] * 17}, openai.BadRequestError, "stop", "at most 16"),
        ({"stop": ""}, openai.BadRequestError, "stop", "at least 1 character"),
        ({"stop": ["a", ""]}, openai.BadRequestError, "stop.1", "at least 1 character"),
        ({"stop": {}}, openai.BadRequestError, "stop", "stop must be a valid string. stop must be a valid list."),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages.0.content", "Field required"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError,
            "messages.0.content.0.type",
            "must be 'text'",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            openai.BadRequestError,
            "response_format.json_schema",
            "required",
        ),
        ({"response_format": {"type": "yaml"}}, openai.BadRequestError, "response_format", "json_schema"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature", "number"),
        ({"messages": []}, openai.BadRequestError, "messages", "at least 1"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", "requires logprobs"),
        ({"max_tokens": 5000}, openai.BadRequestError, "max_tokens", "maximum context length is 512 tokens"),
    ],
    ids=str,
)
def test_errors_raise_the_matching_exceptions_of_the_openai_client(
    client: openai.OpenAI, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str | None, message: str
) -> None:
    with pytest.raises(kind) as error:
        complete(client, **fields)
    assert message in error.value.message
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "gpt-4"}, "model_not_found"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "context_length_exceeded"),
        ({"max_tokens": 5000}, "context_length_exceeded"),
        ({"temperature": "hot"}, None),
    ],
    ids=["model", "prompt", "max_tokens", "temperature"],
)
def test_errors_have_the_codes_that_clients_match(
    client: openai.OpenAI, fields: dict[str, Any], code: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        complete(client, **fields)
    assert error.value.code == code


def test_returned_message_can_be_sent_back(client: openai.OpenAI) -> None:
    message = complete(client).choices[0].message
    for previous in (message, message.model_dump()):
        follow_up = [*CAPITAL, previous, {"role": "user", "content": "And of Germany?", "name": "ada"}]
        assert complete(client, messages=follow_up, max_tokens=4).choices[0].message.content


def test_chat_accepts_the_name_of_an_author(server: Server) -> None:
    messages = [CAPITAL[0] | {"name": "ada"}, {"role": "assistant", "content": PARIS, "name": None}, CAPITAL[0]]
    response = server.http.post("/chat", json={"messages": messages, "generate_kwargs": {"max_new_tokens": 4}})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("prompt", [{}, 5, [{}], [None], [[1], "a"]], ids=str)
def test_prompt_of_the_wrong_type_is_named(server: Server, prompt: Any) -> None:
    response = server.http.post("/v1/completions", json={"prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"].split(".")[0] == "prompt"
    assert "[" not in response.json()["error"]["param"]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("body", ["", "[1]", "{", "[" * 100_000, "{}"])
def test_unreadable_body_is_a_400(server: Server, route: str, body: str) -> None:
    response = server.http.post(route, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_unknown_token_id_is_refused(server: Server) -> None:
    response = server.http.post("/detokenize", json={"tokens": [49152]})
    assert (response.status_code, "token IDs 0 to 49151" in response.text) == (400, True)


def test_chat_stream_matches_the_complete_response(server: Server) -> None:
    body = {"messages": CAPITAL, "generate_kwargs": {"do_sample": False, "output_scores": True}}
    complete_response = server.http.post("/chat", json=body).json()
    response = server.http.post("/chat", json=body, headers={"Accept": "text/event-stream"})
    *deltas, result = response.text.strip().split("\n\n")
    assert "".join(json.loads(delta.removeprefix("data: "))["text"] for delta in deltas) == PARIS
    assert json.loads(result.removeprefix("event: result\ndata: ")) == complete_response


def test_chat_stream_ends_with_a_late_error(server: Server) -> None:
    body = {"prompt": "Hello", "generate_kwargs": {"repetition_penalty": 1e-39}}
    response = server.http.post("/chat", json=body, headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert response.text.startswith("event: error\ndata: ")
    assert "remove_invalid_values" in response.text


def test_chat_stream_refuses_clean_up(server: Server) -> None:
    body = {"prompt": "Hello", "clean_up_tokenization_spaces": True}
    response = server.http.post("/chat", json=body, headers={"Accept": "text/event-stream"})
    assert (response.status_code, "complete response" in response.text) == (400, True)
