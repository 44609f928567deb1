"""docs/contract.md holds what the code has, and names tests that exist."""

import re
from pathlib import Path

import pytest

from app.api.chat.schema import ChatRequest, GenerateKwargs
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import Runtime
from app.settings import Settings
from tests.app.api.chat.test_parameters import EFFECTS

ROOT = Path(__file__).parent.parent


def tables() -> dict[str, list[list[str]]]:
    """Rows of the document's tables, by heading."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (ROOT / "docs/contract.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| item "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 5, line
            found.setdefault(heading, []).append(cells)
    return found


def items(heading: str) -> list[str]:
    return [row[0].strip("`") for row in tables()[heading]]


def test_it_holds_every_field() -> None:
    assert items("Fields") == [
        "prompt",
        "messages",
        *(name for name in ChatRequest.model_fields if name not in {"prompt", "messages"}),
    ]
    assert items("generate_kwargs") == list(GenerateKwargs.model_fields)


def test_it_holds_every_route_but_openais() -> None:
    app = create_app(Runtime(Settings(model=Path()), Metrics("none")))
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static" and not rule.endpoint.startswith("openai.")
    }
    assert set(items("Routes")) == routes


def test_it_holds_every_error() -> None:
    app = create_app(Runtime(Settings(model=Path()), Metrics("none")))
    documented = set(app.api_doc["paths"]["/chat"]["post"]["responses"]) - {"200"}
    assert documented | {"404", "405"} == {item[:3] for item in items("Errors") if item[:3].isdigit()}


@pytest.mark.parametrize("row", [row for rows in tables().values() for row in rows], ids=lambda row: row[0])
def test_each_row_names_a_test_that_exists(row: list[str]) -> None:
    file, name = row[4].split("::")
    function, _, case = name.rstrip("]").partition("[")
    # Not by ast: Python 3.11 fails where another thread, which prints a traceback, parses at the same moment.
    assert function in re.findall(r"^ *def (\w+)\(", (ROOT / "tests/app" / file).read_text(), re.MULTILINE)
    if case:
        assert case in EFFECTS


def test_a_row_that_differs_says_why() -> None:
    for rows in tables().values():
        for row in rows:
            assert row[3] or row[2].startswith(("the same", "404", "405", "500")), row
