"""Errors before an API gives them its own format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import current_app
from pydantic_core import ErrorDetails
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from app.api.validation import InvalidFieldsError
from app.engine.exceptions import EngineError, InvalidLogitsError, QueueFullError
from app.exceptions import NotReadyError, RequestError, TimedOutError, UnknownModelError
from app.logs import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error as every API reports it.

    Attributes:
        status: HTTP status.
        message: what is wrong, what is allowed and what to do.
        field: dotted name of the invalid field, or None.
        code: OpenAI's code of the error, or None if it follows from the status.
        problems: pydantic's errors, if fields of the body are invalid.
    """

    status: int
    message: str
    field: str | None = None
    code: str | None = None
    problems: tuple[ErrorDetails, ...] = ()


# Returns the HTTP status and the JSON body of an error in the format of one API.
ErrorFormatter = Callable[[ErrorInfo], tuple[int, dict[str, Any]]]


def describe_error(error: Exception) -> ErrorInfo:
    """Return the status and message of `error`; unexpected errors are logged and described without their cause."""
    match error:
        case InvalidFieldsError():
            return ErrorInfo(400, str(error), error.field, problems=error.problems)
        case UnknownModelError():
            return ErrorInfo(404, str(error), error.field, error.code)
        case RequestError():
            return ErrorInfo(400, str(error), error.field, error.code)
        case InvalidLogitsError():
            return ErrorInfo(400, str(error))
        case QueueFullError():
            return ErrorInfo(429, str(error))
        case NotReadyError():
            return ErrorInfo(503, str(error))
        case TimedOutError():
            return ErrorInfo(504, str(error))
        case EngineError():
            return ErrorInfo(500, str(error))
        case ClientDisconnected():
            # nginx's status for it. Only the log shows it.
            return ErrorInfo(499, "The client closed the connection.")
        case RequestEntityTooLarge():
            limit = current_app.config["MAX_CONTENT_LENGTH"]
            return ErrorInfo(
                413, f"The request body is larger than {limit} bytes (CHAT_MAX_BODY). Send a smaller request."
            )
        case HTTPException():
            return ErrorInfo(error.code or 500, error.description or error.name)
        case _:
            log.error("request failed", exc_info=error)
            return ErrorInfo(500, "Internal server error. See the server log for this request ID.")
