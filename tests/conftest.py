"""What every test can have."""

from pathlib import Path

import pytest

from checkpoints.demo.convert import make


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the demo model, made on first use."""
    folder = Path(__file__).parents[1] / ".models/demo"
    make(folder)
    return folder
