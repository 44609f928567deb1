"""Submit requests to the engine."""

from collections.abc import Sequence

from flask import g, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from app.api.connection import ResponseWatch
from app.api.context import loaded_engine
from app.engine.request import GenerationRequest
from app.output.stream import OutputStream


def check_body(example: str) -> None:
    """Check that a POST request can be served and has a JSON object, for example `example`, as its body.

    Raises:
        NotReadyError: the model is loading, or the server is shutting down.
        UnsupportedMediaType: the content type is not JSON.
        BadRequest: the body is not a JSON object.
    """
    if request.method != "POST":
        return
    loaded_engine()
    # KAITO reads a body without a content type as JSON.
    if request.mimetype and not request.is_json:
        raise UnsupportedMediaType("The body must be JSON. Send it with the header Content-Type: application/json.")
    try:
        body = request.get_json(force=True)
    except RecursionError:
        raise BadRequest("The JSON body is nested too deeply. Send fewer levels of arrays and objects.") from None
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object, for example {example}.")


def submit(engine_request: GenerationRequest, stop_strings: Sequence[str] = ()) -> OutputStream:
    """Submit `engine_request` and return the stream of its output, which is closed with the HTTP response.

    Raises:
        BadRequest: X-Request-Timeout is not a positive number.
        QueueFullError, EngineError: see Engine.submit.
    """
    loaded = loaded_engine()
    watch = ResponseWatch(request.environ.get("gunicorn.socket"), _time_limit(loaded.limits.max_request_seconds))
    stream = loaded.engine.submit(engine_request)
    loaded.metrics.admitted(stream.worker)
    output = OutputStream(stream, loaded.tokenizer, loaded.metrics, watch.check, stop_strings)
    g.setdefault("outputs", []).append(output)
    return output


def _time_limit(maximum: float) -> float:
    """Return the seconds that the response may take: X-Request-Timeout, but at most `maximum`."""
    header = request.headers.get("X-Request-Timeout")
    if header is None:
        return maximum
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise BadRequest(f"X-Request-Timeout is {header[:100]!r}; it must be a number of seconds above 0.")
    return min(seconds, maximum)
