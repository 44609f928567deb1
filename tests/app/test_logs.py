"""Logs as JSON lines."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.contextvars.clear_contextvars()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_log_record_is_one_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logs.logger("here").info("done", seconds=1.5)
    (line,) = lines(capsys)
    assert line.pop("timestamp")
    assert line == {"event": "done", "seconds": 1.5, "level": "info", "logger": "here"}


def test_library_log_records_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logging.getLogger("library").warning("two\nlines %s", 3)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == ("two\nlines 3", "warning", "library")


def test_log_records_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning")
    logs.logger("here").info("quiet")
    logs.logger("here").warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_logged_exception_contains_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logs.logger("here").exception("failed")
    (line,) = lines(capsys)
    assert "ZeroDivisionError" in str(line["exception"])
