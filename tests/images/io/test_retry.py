"""Retries of an operation after transient failures."""

import pytest

from images.errors import ImageError, TransientError
from images.io.retry import retry_transient


def test_transient_failures_are_retried_five_times_and_lasting_ones_never() -> None:
    lines: list[str] = []
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise TransientError("not now") if calls < 9 else ImageError("never")

    with pytest.raises(TransientError, match="not now"):
        retry_transient(action, lines.append)
    assert (calls, len(lines)) == (5, 4)
    calls = 8
    with pytest.raises(ImageError, match="never"):
        retry_transient(action, lines.append)
    assert calls == 9
