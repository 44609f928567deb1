"""Errors in KAITO's format: `detail` is a message, or for 422 a list of fields."""

from typing import Any

from app.api.errors import ErrorInfo
from app.api.validation import VALUE_ERRORS


def format_error(error: ErrorInfo) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of `error`; a field of the wrong type is 422, all other invalid fields are 400."""
    if any(problem["type"] not in VALUE_ERRORS for problem in error.problems):
        fields = [
            {"type": problem["type"], "loc": ["body", *problem["loc"]], "msg": problem["msg"]}
            for problem in error.problems
        ]
        return 422, {"detail": fields}
    return error.status, {"detail": error.message}
