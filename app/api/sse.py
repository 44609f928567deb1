"""Server-sent events: answers that go out while they are generated."""

import json
import time
from collections.abc import Iterator
from typing import Any

from flask import Response
from werkzeug.exceptions import ClientDisconnected

from app.api import error_handlers as errors

# Proxies close connections that are silent for a minute or so.
KEEP_ALIVE_SECONDS = 10.0


def message(data: Any, event: str | None = None) -> str:
    """One event with `data` as JSON, or as it is where it is text."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def response(messages: Iterator[str | None], path: str) -> Response:
    """Answer with messages as they come, a comment where there was none for KEEP_ALIVE_SECONDS, and what goes wrong.

    `messages` yields None at least so often; it is closed when the client goes away. `path` is the route's.
    """
    answer = Response(_events(messages, path), content_type="text/event-stream; charset=utf-8")
    answer.headers["Cache-Control"] = "no-store"
    # nginx would hold events back to fill its buffers.
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


def _events(messages: Iterator[str | None], path: str) -> Iterator[str]:
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
        yield message(errors.told(error, path)[1], "error")
