"""Trying again."""

import email.utils
import time

import pytest

from images.errors import ImageError, TransientError
from images.io import retry


def test_what_lasts_is_not_tried_again_and_what_passes_is_five_times_at_most() -> None:
    lines: list[str] = []
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise TransientError("not now") if calls < 9 else ImageError("never")

    with pytest.raises(TransientError, match="not now"):
        retry.retried(action, lines.append)
    assert (calls, len(lines)) == (5, 4)
    calls = 8
    with pytest.raises(ImageError, match="never"):
        retry.retried(action, lines.append)
    assert calls == 9


def test_waits_grow_unless_a_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 1)
    assert [round(retry.delay(failures, None) / 2 ** (failures - 1)) for failures in (1, 2, 3)] == [1, 1, 1]
    assert retry.delay(1, 42) == 42
    assert retry.delay(1, 1e9) == retry.LONGEST_WAIT


@pytest.mark.parametrize(("text", "seconds"), [("3", 3.0), ("", None), ("soon", None)])
def test_a_time_is_read_as_a_number(text: str, seconds: float | None) -> None:
    assert retry.retry_after({"Retry-After": text}) == seconds


def test_a_time_is_read_as_a_date() -> None:
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < (retry.retry_after({"Retry-After": date}) or 0) <= 60
    assert retry.retry_after({"Retry-After": email.utils.formatdate(0, usegmt=True)}) == 0
