"""The delays between attempts."""

import email.utils
import time

import pytest

from checkpoints import retry
from checkpoints.retry import MAX_WAIT, backoff_seconds, parse_retry_after


def test_backoff_doubles_unless_the_server_sends_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 1)
    assert [round(backoff_seconds(failures, None) / 2 ** (failures - 1)) for failures in (1, 2, 3)] == [1, 1, 1]
    assert backoff_seconds(1, 42) == 42
    assert backoff_seconds(1, 1e9) == MAX_WAIT


@pytest.mark.parametrize(("text", "seconds"), [("3", 3.0), ("", None), ("soon", None)])
def test_retry_after_is_parsed_as_a_number(text: str, seconds: float | None) -> None:
    assert parse_retry_after({"Retry-After": text}) == seconds


def test_retry_after_is_parsed_as_a_date() -> None:
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < (parse_retry_after({"Retry-After": date}) or 0) <= 60
    assert parse_retry_after({"Retry-After": email.utils.formatdate(0, usegmt=True)}) == 0
