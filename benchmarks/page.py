"""docs/benchmarks.md, which holds a section for each benchmark."""

from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"
INTRODUCTION = """# Benchmarks

Measurements of this server, and of others on the same machine with the same weights. `scripts/bench NAME` runs a
benchmark and writes its section.
"""


def write_section(name: str, section: str) -> None:
    """Write the section of the benchmark `name`, and the page if it does not exist."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    page = PAGE.read_text() if PAGE.exists() else INTRODUCTION
    if begin not in page:
        page += f"\n## {name.capitalize()}\n\n{begin}{end}"
    before, rest = page.split(begin)
    PAGE.write_text(f"{before}{begin}{section}\n{end}{rest.split(end)[1]}")


def measurements_table(rows: Mapping[str, str]) -> str:
    """Return a Markdown table of values, keyed by their names."""
    return "\n".join(
        ["| measurement | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )
