"""Life cycle of the model in the process."""

from pathlib import Path

import pytest

from app.exceptions import NotReadyError
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings
from tools.harness.server import Server


@pytest.fixture
def model_server() -> ModelServer:
    return ModelServer(Settings(model=Path()), Metrics("none"))


def test_loading_server_is_not_ready(model_server: ModelServer) -> None:
    with pytest.raises(NotReadyError, match="loading") as refused:
        model_server.ready()
    assert refused.value.retry_after > 0
    assert not model_server.loaded
    assert model_server.alive


def test_draining_server_is_not_ready(model_server: ModelServer) -> None:
    model_server.drain(lambda: None)
    with pytest.raises(NotReadyError, match="shutting down"):
        model_server.ready()


def test_directory_without_a_checkpoint_stops_the_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    assert str(tmp_path) in reason
    assert "checkpoint" in reason


def test_context_above_the_model_limit_stops_the_server(tiny_model: Path) -> None:
    server = Server(tiny_model, "--max-context", "9000")
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    assert "9000" in reason
    assert "8192" in reason


def test_context_that_does_not_fit_into_memory_stops_the_server(tiny_model: Path) -> None:
    server = Server(tiny_model, "--max-context", "8192", "--memory-share", "0.0001")
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    for said in ("8192 tokens", "GiB", "CHAT_MEMORY_SHARE", "CHAT_MAX_CONTEXT"):
        assert said in reason


def test_truncated_weights_stop_the_server(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    server = Server(tmp_path)
    assert server.process.wait(120) == 3
    server.stop()
    assert any("cannot be loaded" in line["event"] and str(tmp_path) in line["reason"] for line in server.log())
