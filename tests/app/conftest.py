"""Servers and the tokenizer that the tests of the application share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from app.tokenizer import Tokenizer
from tests.support import tiny
from tools.harness.server import Server, running


@pytest.fixture(scope="session")
def tokenizer(demo: Path) -> Tokenizer:
    """Return the tokenizer of the demo model."""
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """Return the directory of a model with random weights that generates a token in milliseconds."""
    directory: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save(directory, demo)
    return directory


@pytest.fixture(scope="session")
def server(demo: Path) -> Iterator[Server]:
    """Serve the demo model."""
    with running(demo, "--name", "demo", "--dtype", "float32", "--max-context", "512") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tiny_model: Path) -> Iterator[Server]:
    """Serve the tiny model."""
    with running(tiny_model, "--dtype", "float32") as server:
        yield server
