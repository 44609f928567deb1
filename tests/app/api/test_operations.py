"""Health and metrics routes."""

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings
from tools.harness.server import Server


@pytest.fixture(scope="module")
def loading() -> FlaskClient:
    """Return a client of an application whose model never loads."""
    return create_app(ModelServer(Settings(model=Path()), Metrics("none"))).test_client()


@pytest.mark.parametrize("route", ["/livez", "/readyz", "/startupz", "/healthz"])
def test_loaded_server_is_healthy_on_every_route(tiny_server: Server, route: str) -> None:
    response = tiny_server.http.get(route)
    assert (response.status_code, response.json()) == (200, {"status": "Healthy"})


def test_loading_server_is_alive(loading: FlaskClient) -> None:
    assert loading.get("/livez").status_code == 200


def test_server_with_a_dead_engine_fails_liveness(loading: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelServer, "alive", False)
    response = loading.get("/livez")
    assert response.status_code == 503
    assert "Restart" in response.get_json()["detail"]


@pytest.mark.parametrize("route", ["/readyz", "/startupz", "/healthz"])
def test_loading_server_is_not_ready_and_sends_retry_after(loading: FlaskClient, route: str) -> None:
    response = loading.get(route)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "loading" in response.get_json()["detail"]


def test_metrics_are_prometheus_text(tiny_server: Server) -> None:
    response = tiny_server.http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "process_resident_memory_bytes"):
        assert re.search(rf"^{name}(\{{.*\}})? [0-9.e+]+$", response.text, re.MULTILINE)
    assert 'phi3_build_info{python="' in response.text


def test_metrics_are_kaitos_json_on_request(tiny_server: Server) -> None:
    machine = tiny_server.http.get("/metrics", headers={"Accept": "application/json"}).json()
    assert set(machine) == {"gpu_info", "cpu_info"}
    known = machine["gpu_info"][0] if machine["gpu_info"] else machine["cpu_info"]
    assert re.fullmatch(r"\d+\.\d\d GB", known["memory"]["used"])
    assert re.fullmatch(r"[1-9]\d*\.\d\d GB", known["memory"]["total"])


def test_openapi_document_is_served(tiny_server: Server) -> None:
    assert tiny_server.http.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_unknown_route_and_wrong_method_are_json_errors(tiny_server: Server) -> None:
    unknown = tiny_server.http.get("/nowhere")
    assert (unknown.status_code, list(unknown.json())) == (404, ["detail"])
    wrong = tiny_server.http.get("/chat")
    assert (wrong.status_code, list(wrong.json())) == (405, ["detail"])
    assert "POST" in wrong.headers["Allow"]
