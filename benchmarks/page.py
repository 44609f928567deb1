"""The page that benchmarks write their results into."""

from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"
INTRODUCTION = """# Benchmarks

What this server is measured at, and against which others on the same machine and the same weights. `scripts/bench` runs
the benchmarks and writes the results here.
"""


def put(name: str, section: str) -> None:
    """Put `section` between the markers of the benchmark `name`, into a page that is made where it is missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    page = PAGE.read_text() if PAGE.exists() else INTRODUCTION
    if begin not in page:
        page += f"\n## {name.capitalize()}\n\n{begin}{end}"
    before, rest = page.split(begin)
    PAGE.write_text(f"{before}{begin}{section}\n{end}{rest.split(end)[1]}")


def table(rows: Mapping[str, str]) -> str:
    """Return a table of values by what they are."""
    return "\n".join(["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
