"""The model's life in the process."""

from pathlib import Path

import pytest

from app.metrics import Metrics
from app.model_server import NotReadyError, Runtime
from app.settings import Settings
from tools.harness.server import Server


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(Settings(model=Path()), Metrics("none"))


def test_a_server_that_loads_says_so_and_when_to_come_back(runtime: Runtime) -> None:
    with pytest.raises(NotReadyError, match="loading") as refused:
        runtime.ready()
    assert refused.value.retry_after > 0
    assert not runtime.loaded
    assert runtime.alive


def test_a_server_that_drains_says_so(runtime: Runtime) -> None:
    runtime.drain(lambda: None)
    with pytest.raises(NotReadyError, match="stopping"):
        runtime.ready()


def test_a_folder_without_a_checkpoint_ends_the_server_and_says_why(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    assert str(tmp_path) in reason
    assert "checkpoint" in reason


def test_a_context_beyond_the_models_ends_the_server_with_both_numbers(tiny_model: Path) -> None:
    server = Server(tiny_model, "--max-context", "9000")
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    assert "9000" in reason
    assert "8192" in reason


def test_a_context_that_does_not_fit_into_memory_ends_the_server_with_the_numbers(tiny_model: Path) -> None:
    server = Server(tiny_model, "--max-context", "8192", "--memory-share", "0.0001")
    assert server.process.wait(120) == 3
    server.stop()
    (reason,) = (line["reason"] for line in server.log() if "reason" in line)
    for said in ("8192 tokens", "GiB", "CHAT_MEMORY_SHARE", "CHAT_MAX_CONTEXT"):
        assert said in reason


def test_weights_that_are_cut_short_end_the_server_and_are_named(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    server = Server(tmp_path)
    assert server.process.wait(120) == 3
    server.stop()
    assert any("cannot be loaded" in line["event"] and str(tmp_path) in line["reason"] for line in server.log())
