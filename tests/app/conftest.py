"""Servers that the tests of the application share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny
from tools.harness.server import Server, running


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A folder with a model of random weights that answers in milliseconds."""
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save(folder, demo)
    return folder


@pytest.fixture(scope="session")
def server(demo: Path) -> Iterator[Server]:
    """The demo model, served."""
    with running(demo, "--name", "demo", "--dtype", "float32", "--max-context", "512") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tiny_model: Path) -> Iterator[Server]:
    """The tiny model, served."""
    with running(tiny_model, "--dtype", "float32") as server:
        yield server
