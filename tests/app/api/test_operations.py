"""The routes for operators and their machines."""

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.factory import create_app
from app.metrics import Metrics
from app.model_server import Runtime
from app.settings import Settings
from tools.harness.server import Server


@pytest.fixture(scope="module")
def loading() -> FlaskClient:
    """An application whose model never loads."""
    return create_app(Runtime(Settings(model=Path()), Metrics("none"))).test_client()


@pytest.mark.parametrize("route", ["/livez", "/readyz", "/startupz", "/healthz"])
def test_a_loaded_server_is_healthy_on_every_route(tiny_server: Server, route: str) -> None:
    response = tiny_server.http.get(route)
    assert (response.status_code, response.json()) == (200, {"status": "Healthy"})


def test_a_loading_server_is_alive(loading: FlaskClient) -> None:
    assert loading.get("/livez").status_code == 200


def test_a_server_whose_engine_is_dead_or_stuck_asks_for_a_restart(
    loading: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "alive", False)
    response = loading.get("/livez")
    assert response.status_code == 503
    assert "restart" in response.get_json()["detail"]


@pytest.mark.parametrize("route", ["/readyz", "/startupz", "/healthz"])
def test_a_loading_server_is_not_ready_and_says_when_to_come_back(loading: FlaskClient, route: str) -> None:
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


def test_the_document_is_served(tiny_server: Server) -> None:
    assert tiny_server.http.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_an_unknown_route_and_a_wrong_method_are_json_errors(tiny_server: Server) -> None:
    unknown = tiny_server.http.get("/nowhere")
    assert (unknown.status_code, list(unknown.json())) == (404, ["detail"])
    wrong = tiny_server.http.get("/chat")
    assert (wrong.status_code, list(wrong.json())) == (405, ["detail"])
    assert "POST" in wrong.headers["Allow"]
