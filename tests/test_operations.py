"""docs/operations.md names a test that exists for each row."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" |")]
    for line in (ROOT / "docs/operations.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| change |", "| failure |"))
]


def test_tables_have_rows() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_names_an_existing_test_or_says_that_none_exists(row: list[str]) -> None:
    assert len(row) == 5
    tests = re.findall(r"`([\w/]+\.py)`", row[-1])
    assert tests or row[-1] == "not tested"
    for test in tests:
        assert (ROOT / (test if "/" in test else f"tests/cluster/{test}")).is_file()
