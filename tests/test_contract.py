"""docs/contract.md covers the whole API and names existing tests."""

import re
from pathlib import Path

import pytest

from app.api.chat.schema import ChatRequest, GenerateKwargs
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings
from tests.app.api.chat.test_parameters import EFFECTS

ROOT = Path(__file__).parent.parent
HEADER = ["item", "KAITO", "phi3", "reason"]
# Each row of these tables is a case of one test, which the document names above the tables.
PARAMETER_TABLES = ("Fields", "generate_kwargs")
PARAMETER_TEST = "api/chat/test_parameters.py::test_parameter_has_an_effect"


def document() -> str:
    return (ROOT / "docs/contract.md").read_text()


def tables() -> dict[str, list[list[str]]]:
    """Return the rows of the document's tables by heading; the last cell is the test."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in document().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            parameter = heading in PARAMETER_TABLES
            if cells[0] == "item":
                assert cells == HEADER if parameter else cells == [*HEADER, "test"]
                continue
            if parameter:
                cells.append(f"{PARAMETER_TEST}[{cells[0].strip('`')}]")
            assert len(cells) == 5, line
            found.setdefault(heading, []).append(cells)
    return found


def items(heading: str) -> list[str]:
    return [row[0].strip("`") for row in tables()[heading]]


def test_contract_has_every_field() -> None:
    assert items("Fields") == [
        "prompt",
        "messages",
        *(name for name in ChatRequest.model_fields if name not in {"prompt", "messages"}),
    ]
    assert items("generate_kwargs") == list(GenerateKwargs.model_fields)


def test_contract_has_every_route_except_openai_routes() -> None:
    app = create_app(ModelServer(Settings(model=Path()), Metrics("none")))
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static" and not rule.endpoint.startswith("openai.")
    }
    assert set(items("Routes")) == routes


def test_contract_has_every_error() -> None:
    app = create_app(ModelServer(Settings(model=Path()), Metrics("none")))
    documented = set(app.api_doc["paths"]["/chat"]["post"]["responses"]) - {"200"}
    assert documented | {"404", "405"} == {item[:3] for item in items("Errors") if item[:3].isdigit()}


def test_contract_names_the_test_of_all_parameters() -> None:
    assert f"`{PARAMETER_TEST}`" in document()


@pytest.mark.parametrize("row", [row for rows in tables().values() for row in rows], ids=lambda row: row[0])
def test_contract_row_is_covered_by_an_existing_test(row: list[str]) -> None:
    file, name = row[4].split("::")
    function, _, case = name.rstrip("]").partition("[")
    # Not by ast: Python 3.11 fails if another thread, which prints a traceback, parses at the same moment.
    assert function in re.findall(r"^ *def (\w+)\(", (ROOT / "tests/app" / file).read_text(), re.MULTILINE)
    if case:
        assert case in EFFECTS


def test_contract_row_gives_a_reason_for_a_difference() -> None:
    for rows in tables().values():
        for row in rows:
            assert row[3] or row[2].startswith(("the same", "404", "405", "500")), row
