"""Runs an operation again after a transient failure."""

import time
from collections.abc import Callable
from typing import TypeVar

from checkpoints.retry import backoff_seconds
from images.errors import TransientError

MAX_ATTEMPTS = 5

T = TypeVar("T")


def retry_transient(attempt: Callable[[], T], log_line: Callable[[str], None]) -> T:
    """Return the result of `attempt`, which runs again after a TransientError; `log_line` gets a line each time."""
    failures = 0
    while True:
        try:
            return attempt()
        except TransientError as error:
            failures += 1
            if failures == MAX_ATTEMPTS:
                raise
            seconds = backoff_seconds(failures, error.wait)
            log_line(f"{error}; retrying in {seconds:.0f} s (attempt {failures + 1} of {MAX_ATTEMPTS})")
            time.sleep(seconds)
