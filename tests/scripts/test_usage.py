"""The usage of the scripts, and the lists of names in it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir())


def usage(script: str, directory: Path = ROOT) -> str:
    """Return the output of `scripts/NAME -h` in a directory."""
    relative = os.path.relpath(ROOT / "scripts" / script, directory)
    command = [f"./{relative}", "-h"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_its_usage_from_any_directory(tmp_path: Path, script: str) -> None:
    shown = usage(script, tmp_path)
    assert shown.startswith(f"usage: scripts/{script}")
    assert "set -eu" not in shown


def test_contributing_lists_every_script() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert sorted(set(re.findall(r"^\| `scripts/([\w-]+)", text, re.MULTILINE))) == SCRIPTS


def test_the_usage_of_tools_lists_every_tool() -> None:
    listed = re.search(r"NAME  (.*)", usage("tools"))
    assert listed
    assert listed[1].split(", ") == sorted(path.name for path in (ROOT / "tools/go").iterdir())


def test_the_usage_of_setup_lists_every_use() -> None:
    listed = re.findall(r"^  (\w+)  ", usage("setup"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "requirements").glob("*.in"))
