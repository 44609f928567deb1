"""Internal errors, as clients see them."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.engine.exceptions import EngineError
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import LoadedEngine, ModelServer
from app.settings import Settings


class FailingModelServer(ModelServer):
    """A model server that raises `error` instead of returning the engine."""

    error: Exception = RuntimeError("secret words")

    def ready(self) -> LoadedEngine:
        raise self.error


@pytest.fixture
def model_server() -> FailingModelServer:
    return FailingModelServer(Settings(model=Path()), Metrics("none"))


@pytest.fixture
def client(model_server: FailingModelServer) -> FlaskClient:
    return create_app(model_server).test_client()


def test_unexpected_error_is_a_500_without_its_cause(client: FlaskClient) -> None:
    response = client.post("/chat", json={"prompt": "Hello"})
    assert response.status_code == 500
    assert list(response.get_json()) == ["detail"]
    assert "secret" not in response.get_data(as_text=True)
    assert response.headers["X-Request-Id"]


def test_failed_generation_is_a_500_with_its_message(client: FlaskClient, model_server: FailingModelServer) -> None:
    model_server.error = EngineError("Generating failed.")
    response = client.post("/chat", json={"prompt": "Hello"})
    assert (response.status_code, response.get_json()) == (500, {"detail": "Generating failed."})
