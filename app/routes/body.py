"""What a request brings beside its fields."""

import socket

from flask import request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType


def require_object(example: str) -> None:
    """Refuse a body that is not one JSON object such as `example`."""
    # As in KAITO, no content type at all means JSON.
    if request.mimetype and not request.is_json:
        raise UnsupportedMediaType("The body must be JSON: send it with the header Content-Type: application/json.")
    try:
        body = request.get_json(force=True)
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object, such as {example}.")


def connection() -> socket.socket | None:
    """The connection to the client, where the server tells it."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


def seconds(most: float) -> float:
    """How long the answer may take: what X-Request-Timeout asks for, and `most` at most; raises BadRequest."""
    given = request.headers.get("X-Request-Timeout")
    if given is None:
        return most
    try:
        wanted = float(given)
    except ValueError:
        wanted = 0.0
    if not wanted > 0:
        raise BadRequest(f"X-Request-Timeout is {given[:100]!r}: it should be a number of seconds above 0.")
    return min(wanted, most)
