"""The machine that a benchmark runs on, and the model that it serves."""

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

# The checkpoint that the benchmarks serve.
MODEL = Path(__file__).resolve().parents[1] / ".models/demo"


def describe_run(name: str, packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Return the machine, date, package versions and command line of the benchmark `name`, before it begins."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    threads = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(("OMP_", "GOMP_"))]
    command = shlex.join([*threads, "scripts/bench", name, *sys.argv[1:]])
    return (
        f"{processor}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 1e9:.0f} GB of memory; "
        f"{datetime.datetime.now(datetime.UTC).date()}, load average {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, {versions}. Command: `{command}`."
    )
