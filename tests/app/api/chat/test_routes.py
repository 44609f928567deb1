"""`POST /chat` with the demo model: documented requests, responses and errors."""

import concurrent.futures
import json
from typing import Any

import httpx
import pytest

from tools.harness.server import Server

QUESTION = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
KNIGHT = "<|user|> How to explain Internet for a medieval knight?<|end|><|assistant|>"
MEANING = "<|user|> What is the meaning of life?<|end|><|assistant|>"


def post(server: Server, body: bytes | str, content_type: str | None = "application/json") -> httpx.Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return server.http.post("/chat", content=body, headers=headers)


def test_short_documented_request_succeeds(server: Server) -> None:
    response = post(server, json.dumps({"prompt": KNIGHT}))
    assert response.status_code == 200
    assert set(response.json()) == {"Result"}
    assert response.json()["Result"].startswith(KNIGHT)
    assert len(response.json()["Result"]) > len(KNIGHT)


def test_long_documented_request_succeeds(server: Server) -> None:
    body = {
        "prompt": MEANING,
        "return_full_text": False,
        "clean_up_tokenization_spaces": False,
        "prefix": None,
        "handle_long_generation": None,
        "generate_kwargs": {
            "max_length": 200,
            "min_length": 0,
            "do_sample": True,
            "early_stopping": False,
            "num_beams": 1,
            "num_beam_groups": 1,
            "diversity_penalty": 0.0,
            "temperature": 1.0,
            "top_k": 10,
            "top_p": 1,
            "typical_p": 1,
            "repetition_penalty": 1,
            "length_penalty": 1,
            "no_repeat_ngram_size": 0,
            "encoder_no_repeat_ngram_size": 0,
            "bad_words_ids": None,
            "num_return_sequences": 1,
            "output_scores": False,
            "return_dict_in_generate": False,
            "forced_bos_token_id": None,
            "forced_eos_token_id": None,
            "remove_invalid_values": None,
        },
    }
    response = post(server, json.dumps(body))
    assert response.status_code == 200
    assert response.json()["Result"]
    assert MEANING not in response.json()["Result"]


@pytest.mark.parametrize("prompt", [QUESTION, QUESTION.replace("\n", ""), QUESTION.replace(">\nW", "> W")])
def test_completion_ends_at_the_end_token(server: Server, prompt: str) -> None:
    response = server.chat(prompt, return_full_text=False, do_sample=False, return_dict_in_generate=True)
    assert "Paris" in response.json()["Result"]
    assert "<|end|>" not in response.json()["Result"]
    (details,) = response.json()["Details"]
    assert details["finish_reason"] == "stop"
    assert details["token_ids"][-1] == 2


def test_numbers_in_strings_are_accepted_as_in_kaito(server: Server) -> None:
    response = server.chat("Hello", max_new_tokens="3", return_dict_in_generate="true")
    assert response.json()["Details"][0]["completion_tokens"] == 3


def test_concurrent_requests_both_succeed(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        bodies = list(pool.map(lambda _: server.chat(QUESTION, do_sample=False).json(), range(2)))
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{}", 400, "Text generation parameter prompt required"),
        ('{"prompt": ""}', 400, "Text generation parameter prompt required"),
        ('{"messages": []}', 400, "Conversational parameter messages required"),
        ('{"prompt": "Hello"', 400, "JSON"),
        (b"\xff\xfe{", 400, "JSON"),
        ("", 400, "JSON"),
        ("[1]", 400, "must be a JSON object"),
        ('"{}"', 400, "must be a JSON object"),
        ("[" * 100_000, 400, "nested too deeply"),
        ('{"prompt": "Hello", "stream": true}', 400, "Unknown field stream."),
        ('{"prompt": "Hello", "generate_kwargs": {"foo": 1}}', 400, "Unknown field generate_kwargs.foo."),
        ('{"prompt": "Hello", "generate_kwargs": {"max_time": 1}}', 400, "Unknown field generate_kwargs.max_time."),
        ('{"prompt": "Hello", "generate_kwargs": {"top_p": 2}}', 400, "must be less than or equal to 1, but is 2"),
        ('{"prompt": "Hello", "generate_kwargs": {"eos_token_id": -1}}', 400, "eos_token_id must be"),
        ('{"prompt": "Hello", "generate_kwargs": {"temperature": NaN}}', 400, "finite number"),
        ('{"prompt": "Hello", "handle_long_generation": "cut"}', 400, "'hole'"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', 400, "'system', 'user' or 'assistant'"),
        ('{"prompt": "Hello", "generate_kwargs": {"num_return_sequences": 2, "num_beams": 1, "do_sample": false}}',
         400, "greedy search returns only one sequence"),
        ('{"prompt": "Hello", "generate_kwargs": {"repetition_penalty": 1e-39}}', 400, "remove_invalid_values"),
        ('{"prompt": "\\ud800"}', 400, "surrogate"),
        ('{"prompt": "' + "word " * 250 + '"}', 400, "max_length, which counts prompt and completion, is 200"),
    ],
)  # fmt: skip
def test_invalid_request_is_refused_with_a_message(
    server: Server, body: bytes | str, status: int, message: str
) -> None:
    response = post(server, body)
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert message in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ('{"prompt": 5}', ["body", "prompt"]),
        ('{"prompt": "Hello", "generate_kwargs": {"max_length": "long"}}', ["body", "generate_kwargs", "max_length"]),
        ('{"prompt": "Hello", "generate_kwargs": {"max_length": null}}', ["body", "generate_kwargs", "max_length"]),
        ('{"prompt": "Hello", "generate_kwargs": {"max_length": 1.5}}', ["body", "generate_kwargs", "max_length"]),
        ('{"prompt": "Hello", "generate_kwargs": []}', ["body", "generate_kwargs"]),
        ('{"messages": "Hello"}', ["body", "messages"]),
    ],
)
def test_wrong_type_is_a_422_with_its_location(server: Server, body: str, location: list[str]) -> None:
    response = post(server, body)
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == location
    assert set(error) == {"type", "loc", "msg"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_other_content_types_are_refused(server: Server, content_type: str) -> None:
    response = post(server, '{"prompt": "Hello"}', content_type)
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


@pytest.mark.parametrize("content_type", [None, "application/JSON; charset=utf-8", "application/vnd.api+json"])
def test_missing_and_json_content_types_are_accepted(server: Server, content_type: str | None) -> None:
    assert (
        post(server, '{"prompt": "Hello", "generate_kwargs": {"max_new_tokens": 1}}', content_type).status_code == 200
    )


def test_trailing_slash_is_ignored(server: Server) -> None:
    body = {"prompt": "Hello", "generate_kwargs": {"max_new_tokens": 1}}
    assert server.http.post("/chat/", json=body).status_code == 200


def test_oversized_body_is_refused(server: Server) -> None:
    response = post(server, json.dumps({"prompt": "x" * 3_000_000}))
    assert response.status_code == 413
    assert "detail" in response.json()


def test_many_invalid_items_give_a_short_error(server: Server) -> None:
    wrong: dict[str, Any] = {"prompt": "Hello", "generate_kwargs": {"suppress_tokens": ["x"] * 100_000}}
    response = post(server, json.dumps(wrong))
    assert response.status_code == 422
    assert len(response.content) < 10_000
