"""Errors in OpenAI's format."""

from typing import Any

from app.api.errors import ErrorInfo

CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}


def format_error(error: ErrorInfo) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of `error`."""
    if error.status >= 500:
        kind = "server_error"
    elif error.status == 429:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error"
    fields = {
        "message": error.message,
        "type": kind,
        "param": error.field,
        "code": error.code or CODES.get(error.status),
    }
    return error.status, {"error": fields}
