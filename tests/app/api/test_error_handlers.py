"""Failures inside the server, as callers see them."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.engine.exceptions import EngineError
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import Ready, Runtime
from app.settings import Settings


class FailingRuntime(Runtime):
    """A runtime that fails when asked for its model."""

    error: Exception = RuntimeError("secret words")

    def ready(self) -> Ready:
        raise self.error


@pytest.fixture
def runtime() -> FailingRuntime:
    return FailingRuntime(Settings(model=Path()), Metrics("none"))


@pytest.fixture
def client(runtime: FailingRuntime) -> FlaskClient:
    return create_app(runtime).test_client()


def test_an_unexpected_failure_is_a_500_that_tells_nothing_of_its_cause(client: FlaskClient) -> None:
    response = client.post("/chat", json={"prompt": "Hello"})
    assert response.status_code == 500
    assert list(response.get_json()) == ["detail"]
    assert "secret" not in response.get_data(as_text=True)
    assert response.headers["X-Request-Id"]


def test_a_failed_generation_is_a_500_in_words(client: FlaskClient, runtime: FailingRuntime) -> None:
    runtime.error = EngineError("Generating failed.")
    response = client.post("/chat", json={"prompt": "Hello"})
    assert (response.status_code, response.get_json()) == (500, {"detail": "Generating failed."})
