"""Trying again what may succeed later."""

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from images.errors import TransientError

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that may be others later."""
TRIES = 5
FIRST_WAIT = 1.0  # seconds, doubled from try to try
LONGEST_WAIT = 300.0

T = TypeVar("T")


def retried(action: Callable[[], T], say: Callable[[str], None]) -> T:
    """Return what `action` returns, trying again where it raises TransientError; `say` gets a line each time."""
    failures = 0
    while True:
        try:
            return action()
        except TransientError as error:
            failures += 1
            if failures == TRIES:
                raise
            seconds = delay(failures, error.wait)
            say(f"{error}; trying again in {seconds:.0f} s ({failures + 1} of {TRIES})")
            time.sleep(seconds)


def delay(failures: int, wait: float | None) -> float:
    """Return the seconds to wait after so many failures: `wait` where the other side named a time."""
    if wait is not None:
        return min(wait, LONGEST_WAIT)
    return FIRST_WAIT * 2.0 ** (failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries, no secret


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header names, as a number or as a date."""
    text = headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
