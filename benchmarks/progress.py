"""How far a benchmark is."""

import sys
from pathlib import Path


def say(text: str) -> None:
    """Print a line of progress, with the name of the benchmark that runs."""
    print(f"scripts/bench {Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)
