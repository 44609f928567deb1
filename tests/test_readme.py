"""What the README says is what the code does."""

from pathlib import Path

from app.settings import Settings
from checkpoints.catalogue import CATALOGUE

README = (Path(__file__).parent.parent / "README.md").read_text()


def settings_table() -> str:
    """The table of settings, as it should stand in the README."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"{field.default:,}" if type(field.default) is int else ""
        default = default or (str(field.default) if field.default else "")
        lines.append(f"| `CHAT_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


def test_the_settings_are_those_of_the_code() -> None:
    table = README.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert table == settings_table(), f"put this into README.md:\n{settings_table()}"


def test_the_models_are_those_of_the_catalogue() -> None:
    for model in CATALOGUE.values():
        assert f"| `{model.name}` | {model.repository} | {model.context:,} | {model.licence} |" in README
