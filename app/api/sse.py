"""Responses as server-sent events."""

import json
import time
from collections.abc import Iterator
from typing import Any

from flask import Response
from werkzeug.exceptions import ClientDisconnected

from app.api.errors import ErrorFormatter, describe_error

# Proxies close connections that are silent for about a minute.
KEEP_ALIVE_SECONDS = 10.0


def message(data: Any, event: str | None = None) -> str:
    """Return one event; `data` is encoded as JSON unless it is text."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def response(messages: Iterator[str | None], format_error: ErrorFormatter) -> Response:
    """Stream `messages`, with a comment after each KEEP_ALIVE_SECONDS of silence.

    An exception becomes a last event `error`, which `format_error` formats.

    Args:
        messages: events; must yield None regularly while there is none. Closed if the client disconnects.
        format_error: error formatter of the API.
    """
    stream = Response(_events(messages, format_error), content_type="text/event-stream; charset=utf-8")
    stream.headers["Cache-Control"] = "no-store"
    # Without it nginx buffers the events.
    stream.headers["X-Accel-Buffering"] = "no"
    return stream


def _events(messages: Iterator[str | None], format_error: ErrorFormatter) -> Iterator[str]:
    sent = time.monotonic()
    try:
        for text in messages:
            now = time.monotonic()
            if text is None and now - sent < KEEP_ALIVE_SECONDS:
                continue
            sent = now
            yield ": keep-alive\n\n" if text is None else text
    except ClientDisconnected:
        return
    except Exception as error:
        yield message(format_error(describe_error(error))[1], "error")
