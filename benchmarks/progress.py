"""Progress messages."""

import sys
from pathlib import Path


def log_progress(text: str) -> None:
    """Print a progress message to stderr, with the name of the benchmark."""
    print(f"scripts/bench {Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)
