"""What a request brings beside its fields."""

from collections.abc import Sequence

from flask import g, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from app.engine.request import GenerationRequest
from app.model_server import Ready
from app.output.stream import Reader


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


def ask(ready: Ready, wanted: GenerationRequest, stops: Sequence[str] = ()) -> Reader:
    """Let in what this request asks for; where its answer is not read to the end, it is cancelled with the response.

    Raises:
        BadRequest: X-Request-Timeout is no number of seconds.
        QueueFullError, EngineError: see Engine.submit.
    """
    most = _seconds(ready.limits.settings.max_request_seconds)
    reader = ready.ask(wanted, request.environ.get("gunicorn.socket"), most, stops)
    g.setdefault("generations", []).append(reader.generation)
    return reader


def _seconds(most: float) -> float:
    """How long the answer may take: what X-Request-Timeout asks for, and `most` at most."""
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
