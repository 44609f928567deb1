"""The README matches the code."""

from pathlib import Path

from checkpoints.catalogue import CATALOGUE

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_models_of_the_readme_match_the_catalogue() -> None:
    for model in CATALOGUE.values():
        assert f"| `{model.name}` | {model.repository} | {model.context:,} | {model.licence} |" in README
