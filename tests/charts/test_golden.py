"""What the models render to is what was last looked at."""

from pathlib import Path

import pytest

from tests.charts.helm import MODELS, text

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_renders_to_what_was_looked_at(model: str) -> None:
    file = FOLDER / f"{model}.yaml"
    command = f"helm template phi3 charts/phi3 --namespace models --skip-tests --set model={model} > {file}"
    assert text({"model": model}, "--skip-tests") == file.read_text(), f"look at what changed, then run: {command}"


def test_there_is_no_other() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(MODELS)
