"""Requests generated from the OpenAPI document, and with extreme values, cause no 5xx and no hang."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.chat.schema import GenerateKwargs
from tools.harness.server import Server, running

REQUESTS = 60
# For each operation; more than 5,000 in total.
MANY_REQUESTS = 840
TIMEOUT_SECONDS = 60
OPERATIONS = [
    ("POST", "/chat"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/v1/models/{model}"),
]


@pytest.fixture(scope="module")
def short_server(tiny_model: Path) -> Iterator[Server]:
    """Serve the tiny model with a context of 8 tokens, so that thousands of requests take little time."""
    with running(tiny_model, "--dtype", "float32", "--max-context", "8") as server:
        yield server
        statuses = {
            status: int(server.metric("phi3_http_requests_total", route="/chat", status=str(status)))
            for status in (200, 400, 422)
        }
        print(f"responses of /chat to generated requests: {statuses}")
        assert sum(statuses.values()) >= 2 * REQUESTS
        assert min(statuses.values()) > 0


UNHURRIED = settings(
    max_examples=REQUESTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)


@each_operation
@UNHURRIED
@given(data=st.data())
def test_generated_requests_get_documented_responses(
    short_server: Server, operation: tuple[str, str], data: Any
) -> None:
    check(short_server, operation, data)


@pytest.mark.slow
@each_operation
@settings(UNHURRIED, max_examples=MANY_REQUESTS)
@given(data=st.data())
def test_thousands_of_generated_requests_get_documented_responses(
    short_server: Server, operation: tuple[str, str], data: Any
) -> None:
    check(short_server, operation, data)


def check(server: Server, operation: tuple[str, str], data: Any) -> None:
    """Send a request that the document allows or forbids, and compare the response with the document."""
    # Numbers in strings are accepted, as in KAITO, so wrong types are not always refused.
    mode = data.draw(st.sampled_from(GenerationMode))
    case = data.draw(document(server.url)[operation[1]][operation[0]].as_strategy(generation_mode=mode))
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
        timeout=TIMEOUT_SECONDS,
    )


@functools.cache
def document(url: str) -> Any:
    """Return the OpenAPI document of the server."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 10, 7, 8, 9, 200, 49151, 49152, -1, 2**31, 2**63, 1e-45, 1e-39, 1e-7, 0.5])
EDGES: st.SearchStrategy[Any] = st.one_of(
    NUMBERS,
    NUMBERS.map(float),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(["", "never", "3", "NaN", "x" * 1000]),
    st.lists(NUMBERS, max_size=3),
    st.lists(st.lists(NUMBERS, max_size=3), max_size=3),
)
KWARGS = st.dictionaries(st.sampled_from(sorted(GenerateKwargs.model_fields)), EDGES, max_size=6)
PROMPTS = st.one_of(st.text(max_size=30), st.sampled_from(["Hello", "<|user|>\nHello<|end|>\n<|assistant|>\n", "\x00"]))
SEARCHES = st.fixed_dictionaries(
    {
        "do_sample": st.just(False),
        "num_beams": st.sampled_from([2, 4, 6]),
        "num_beam_groups": st.sampled_from([1, 2]),
        "diversity_penalty": st.sampled_from([0.0, 0.5, 1e30]),
        "length_penalty": st.floats(-10, 10),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "num_return_sequences": st.sampled_from([1, 2]),
        "output_scores": st.booleans(),
    }
)


@UNHURRIED
@given(prompt=PROMPTS, kwargs=st.one_of(KWARGS, SEARCHES), prefix=st.one_of(st.none(), st.text(max_size=5)))
def test_extreme_parameters_never_cause_a_server_error(
    short_server: Server, prompt: str, kwargs: dict[str, Any], prefix: str | None
) -> None:
    body = json.dumps({"prompt": prompt, "prefix": prefix, "generate_kwargs": kwargs})
    headers = {"Content-Type": "application/json"}
    response = short_server.http.post("/chat", content=body, headers=headers, timeout=TIMEOUT_SECONDS)
    assert response.status_code in {200, 400, 422}, (body, response.text)
    if response.status_code == 200:
        text = response.text
        assert not any(name in text for name in ("NaN", "Infinity"))
        assert math.isfinite(len(response.json()["Result"]))
