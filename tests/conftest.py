"""What every test can have."""

from pathlib import Path

import pytest

from checkpoints.demo.convert import make_demo


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the demo model, made on first use."""
    folder = Path(__file__).parents[1] / ".models/demo"
    make_demo(folder)
    return folder
