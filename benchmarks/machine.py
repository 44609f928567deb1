"""What a benchmark runs on."""

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

MODEL = Path(__file__).resolve().parents[1] / ".models/demo"
"""The weights that are served."""


def about(name: str, packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Say what the benchmark `name`, which is about to begin, runs on, when, with what, and by which command."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    threads = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(("OMP_", "GOMP_"))]
    command = shlex.join([*threads, "scripts/bench", name, *sys.argv[1:]])
    return (
        f"{processor}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 1e9:.0f} GB of memory; "
        f"{datetime.datetime.now(datetime.UTC).date()}, load before it {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}. By `{command}`."
    )
