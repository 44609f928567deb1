"""Run the programs of the repository, each in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def module_command(module: str, arguments: Sequence[str | Path]) -> list[str]:
    """Return the command line of `python -m MODULE`, without modules of the current directory."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def run_module(module: str, *arguments: str | Path) -> str:
    """Run `python -m MODULE` and return its output without the final newline; exit with its status if it fails."""
    done = subprocess.run(module_command(module, arguments), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout.rstrip("\n")
