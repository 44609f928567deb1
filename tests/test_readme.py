"""The README matches the catalogue of models."""

import math
from pathlib import Path

import pytest
import yaml

from checkpoints.catalogue import CATALOGUE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GPUS = {
    name: entry["gpu"]
    for name, entry in yaml.safe_load((ROOT / "checkpoints/catalogue.yaml").read_text())["models"].items()
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_models_of_the_readme_match_the_catalogue(name: str) -> None:
    model, gpu = CATALOGUE[name], GPUS[name]
    # The formula in the header of the catalogue.
    mebibytes = gpu["weightsMiB"] + math.ceil(model.context * gpu["kvKiBPerToken"] / 1024 / 0.9) + 1536
    memory = f"{math.ceil(mebibytes / 1024)} GiB"
    assert f"| `{name}` | {model.repository} | {model.context:,} | {memory} | {model.licence} |" in README
