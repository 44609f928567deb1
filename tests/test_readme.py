"""The README matches the catalogue of models."""

import math
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE
from tests.charts.catalogue import min_gpu_memory_mib

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("name", CATALOGUE)
def test_models_of_the_readme_match_the_catalogue(name: str) -> None:
    model = CATALOGUE[name]
    memory = f"{math.ceil(min_gpu_memory_mib(name, model.context) / 1024)} GiB"
    assert f"| `{name}` | {model.repository} | {model.context:,} | {memory} | {model.licence} |" in README
