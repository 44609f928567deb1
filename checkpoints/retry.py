"""The retry policy for HTTP transfers: exponential backoff, unless the server sends Retry-After."""

import email.utils
import random
import time
from collections.abc import Mapping

TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that a retry may fix."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt; the wait doubles with each further one."""
MAX_WAIT = 300.0
"""Seconds; a server that asks for more is retried after this time."""


def backoff_seconds(failures: int, retry_after: float | None) -> float:
    """Return the seconds to wait after `failures` failed attempts: `retry_after` if the server sent one."""
    if retry_after is not None:
        return min(retry_after, MAX_WAIT)
    jitter = random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries, protects no secret
    return FIRST_WAIT * 2.0 ** (failures - 1) * jitter


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the Retry-After header in seconds, whether it holds a number or an HTTP date.

    Source: https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    text = headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
