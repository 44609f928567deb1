"""The interpreter check of the verbs that are written in Python."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_AS_OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 0, "final", 0)
sys.argv = ["version.py", "--tag", "v1"]
runpy.run_module("tools.version", run_name="__main__", alter_sys=True)
"""


def run_as_old_python(path: Path) -> subprocess.CompletedProcess[str]:
    """Run scripts/version with an interpreter that claims to be Python 3.10, and a PATH of one directory."""
    command = [sys.executable, "-c", RUN_AS_OLD_PYTHON]
    return subprocess.run(command, cwd=ROOT, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory with a python3.13 that does not start."""
    add_program(tmp_path / "python3.13", "exit 1")
    return tmp_path


def add_program(file: Path, body: str) -> None:
    """Write a shell script."""
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def test_an_old_python_starts_the_program_again_under_a_newer_one_that_works(path: Path) -> None:
    add_program(path / "python3.12", '[ "$1" = -c ] || echo "$@"')
    done = run_as_old_python(path)
    assert (done.returncode, done.stdout) == (0, "-m tools.version --tag v1\n"), done.stderr


def test_an_old_python_without_a_newer_one_exits_with_the_version_that_is_required(path: Path) -> None:
    done = run_as_old_python(path)
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is required, but python3 is ")
