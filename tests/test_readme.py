"""The README matches the catalogue of models."""

import re
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE

README = (Path(__file__).parent.parent / "README.md").read_text()


def expand_braces(text: str) -> list[str]:
    """Return the words of `text`, with one word for each alternative of `{a,b}`."""
    words = []
    for word in re.findall(r"[^\s{}]*\{[^}]*\}\S*|\S+", text):
        before, _, rest = word.partition("{")
        alternatives, _, after = rest.partition("}")
        words += [before + alternative + after for alternative in alternatives.split(",")]
    return words


@pytest.mark.parametrize("name", CATALOGUE)
def test_models_of_the_readme_match_the_catalogue(name: str) -> None:
    model = CATALOGUE[name]
    (row,) = (line for line in README.splitlines() if line.startswith("| ") and f"`{name}`" in line.split(" | ")[0])
    names, weights, contexts, license_ = row.strip("| ").split(" | ")
    position = re.findall(r"`(\S+)`", names).index(name)
    assert expand_braces(weights)[position] == model.repository
    assert contexts.split(", ")[position] == f"{model.context:,}"
    assert license_ == model.licence
