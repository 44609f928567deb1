"""Every branch of every template is rendered by some case."""

from pathlib import Path

from tests.charts.branches import copy, never_taken, noting
from tests.charts.helm import text


def test_every_branch_is_taken() -> None:
    assert never_taken() == []


def test_branches_are_found_with_the_else_that_is_not_written() -> None:
    source = "{{ if .a }}\n{{- with .b }}{{ . }}{{ end }}\n{{ else if .c }}{{ else }}{{ end }}{{ range .d }}{{ end }}"
    assert noting(source, "x")[1] == [
        "x:1 if .a",
        "x:2 with .b",
        "x:2 else of with .b",
        "x:3 else if .c",
        "x:3 else",
        "x:3 range .d",
    ]


def test_the_copy_renders_what_the_chart_does(tmp_path: Path) -> None:
    assert len(copy(tmp_path)) > 100
    assert text({"global": {"taken": {}}}, chart=tmp_path).startswith(text({})[:2000])
