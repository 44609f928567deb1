"""scripts/chart-docs, run on a copy of the chart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Tree:
    """A repository that contains only the chart and the generator of its documentation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chart = root / "charts/phi3"
        shutil.copytree(ROOT / "charts/phi3", self.chart)
        (root / "tools").mkdir()
        for name in ("__init__.py", "chart_docs.py", "verb.py"):
            shutil.copy(ROOT / "tools" / name, root / "tools")

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run the program of scripts/chart-docs."""
        command = [sys.executable, "-m", "tools.chart_docs", *flags]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True)

    def add(self, lines: str) -> None:
        """Append lines to values.yaml."""
        with (self.chart / "values.yaml").open("a") as file:
            file.write(lines)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_new_value_is_added_to_the_schema_and_the_table(tree: Tree) -> None:
    description = "Speed of the server. Raise the speed for short waits."
    tree.add(f"\n# {description} For example:\n#   7\n# @schema {{minimum: 1, maximum: 9}}\nspeed: 5\n")
    done = tree.run("--check")
    assert done.returncode == 1
    assert "charts/phi3/values.schema.json does not match values.yaml: run scripts/chart-docs" in done.stderr
    assert "charts/phi3/README.md does not match values.yaml: run scripts/chart-docs" in done.stderr

    assert tree.run().returncode == 0
    assert tree.run("--check").returncode == 0
    schema = json.loads((tree.chart / "values.schema.json").read_text())["properties"]["speed"]
    assert schema == {"description": description, "type": "integer", "minimum": 1, "maximum": 9, "default": 5}
    assert f"| `speed` | integer | `5` | {description} |" in (tree.chart / "README.md").read_text()


@pytest.mark.parametrize("comment", ["", "# Speed of the server.\n"])
def test_comment_must_say_when_to_change_the_value(tree: Tree, comment: str) -> None:
    tree.add(f"\n{comment}speed: 5\n")
    done = tree.run()
    assert done.returncode == 1
    assert "the comment of speed does not say when to change it: add a sentence" in done.stderr


def test_unknown_kubernetes_type_is_rejected(tree: Tree) -> None:
    tree.add("\n# Speed of the server. Raise the speed for short waits.\n# @schema {$ref: Sped}\nspeed: {}\n")
    assert tree.run().stderr == "charts/phi3/values.yaml: Kubernetes 1.37 has no type Sped: correct the $ref\n"
