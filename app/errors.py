"""Every error as JSON: what was wrong, what is allowed, what to do."""

from flask import Flask, Response, current_app, jsonify
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.engine.request import EngineError, InvalidScoresError, QueueFullError
from app.logs import logger
from app.prompt import RequestError
from app.runtime import NotReadyError
from app.schema import ChatRequest, GenerateKwargs

log = logger(__name__)

# pydantic's names of errors in a value whose type is right.
VALUE_ERRORS = {
    "extra_forbidden",
    "finite_number",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "literal_error",
    "too_short",
    "value_error",
}
MOST_REPORTED = 20


def register(app: Flask) -> None:
    """Make `app` answer its errors as the contract says."""
    app.register_error_handler(RequestError, lambda error: detail(400, str(error)))
    app.register_error_handler(InvalidScoresError, lambda error: detail(400, str(error)))
    app.register_error_handler(QueueFullError, lambda error: detail(429, str(error), error.retry_after))
    app.register_error_handler(NotReadyError, lambda error: detail(503, str(error), error.retry_after))
    app.register_error_handler(EngineError, lambda error: detail(500, str(error)))
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def detail(status: int, text: str, retry_after: int | None = None) -> Response:
    """An error of `status` with `text`, and Retry-After in seconds where given."""
    response = jsonify(detail=text)
    response.status_code = status
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def invalid(error: ValidationError) -> Response:
    """Answer 422 where a field has the wrong type, else 400 in words."""
    problems = _by_field(error.errors(include_url=False, include_context=False))
    if any(problem["type"] not in VALUE_ERRORS for problem in problems):
        response = jsonify(
            detail=[{"type": p["type"], "loc": ["body", *p["loc"]], "msg": p["msg"]} for p in problems[:MOST_REPORTED]]
        )
        response.status_code = 422
        return response
    return detail(400, " ".join(_sentence(problem) for problem in problems[:MOST_REPORTED]))


def _by_field(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Keep, of a field that may have several types, the errors in the value of one where there are such."""
    fields: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for problem in problems:
        fields.setdefault(_field(problem["loc"]), []).append(problem)
    kept: list[ErrorDetails] = []
    for of_field in fields.values():
        kept += [problem for problem in of_field if problem["type"] in VALUE_ERRORS] or of_field
    return kept


def _field(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The path of a field, without the name of the type that pydantic adds where it may have several."""
    return loc[:2] if loc[:1] == ("generate_kwargs",) else loc


def _sentence(problem: ErrorDetails) -> str:
    loc = problem["loc"]
    field = _field(loc)
    name = ".".join(str(part) for part in (*field, *(part for part in loc[len(field) :] if isinstance(part, int))))
    if problem["type"] == "extra_forbidden":
        model = (
            GenerateKwargs if loc[0] == "generate_kwargs" and len(loc) == 2 else ChatRequest if len(loc) == 1 else None
        )
        served = f" Served are: {', '.join(model.model_fields)}." if model else ""
        return f"{name[:100]} is not served; take it out.{served}"
    value = problem["input"]
    given = f", and is {value}" if isinstance(value, int | float) else ""
    return f"{name}: {problem['msg'].replace('Input', 'it', 1)}{given}."


def _too_large(_: RequestEntityTooLarge) -> Response:
    limit = current_app.config["MAX_CONTENT_LENGTH"]
    return detail(413, f"The body is larger than {limit} bytes, which is what CHAT_MAX_BODY allows: send less.")


def _http_error(error: HTTPException) -> Response:
    response = detail(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    log.exception("request failed", error=type(error).__name__)
    return detail(500, "The server failed; its log says more under this request's id.")
