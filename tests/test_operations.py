"""docs/operations.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" |")]
    for line in (ROOT / "docs/operations.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| what ")
]


def test_each_row_names_a_test_that_exists_or_says_that_none_does() -> None:
    assert len(ROWS) > 15
    for row in ROWS:
        named = re.findall(r"`([\w/]+\.py)`", row[-1])
        assert named or row[-1] == "not tested", row
        for name in named:
            assert (ROOT / (name if "/" in name else f"tests/cluster/{name}")).is_file(), row
