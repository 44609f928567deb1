"""The body of a request, before its fields are looked at."""

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
