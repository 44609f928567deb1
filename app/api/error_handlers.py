"""Every error as JSON: what was wrong, what is allowed, what to do."""

from typing import Any

from flask import Flask, Response, current_app, jsonify, request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from app.api.chat.request import RequestError
from app.api.chat.schema import ChatRequest, GenerateKwargs
from app.api.openai import schema as openai
from app.engine.exceptions import EngineError, InvalidLogitsError, QueueFullError
from app.logs import logger
from app.model_server import NotReadyError
from app.output.stream import TimedOutError

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
# Routes of OpenAI's API, whose clients read errors of another shape.
OPENAI = ("/v1/", "/tokenize", "/detokenize")
CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in (ChatRequest, *openai.REQUESTS)}


def register(app: Flask) -> None:
    """Make `app` answer its errors as the contract says."""
    app.register_error_handler(Exception, respond)


def respond(error: Exception) -> Response:
    """Answer `error`, in the shape of the API that was asked."""
    status, body = told(error, request.path)
    response = jsonify(body)
    response.status_code = status
    if isinstance(error, QueueFullError | NotReadyError):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, HTTPException):
        for name, value in error.get_headers():
            if name in {"Allow", "Retry-After", "WWW-Authenticate"}:
                response.headers[name] = value
    if status in {500, 504}:
        # OpenAI's clients then do not send it again: what broke a step, or took too long, would do so again.
        response.headers["x-should-retry"] = "false"
    return response


def told(error: Exception, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the body for `error` on the route `path`; what was not foreseen is logged."""
    field = None
    match error:
        case RequestError():
            status, text, field = 400, str(error), error.field
        case InvalidLogitsError():
            status, text = 400, str(error)
        case QueueFullError():
            status, text = 429, str(error)
        case NotReadyError():
            status, text = 503, str(error)
        case TimedOutError():
            status, text = 504, str(error)
        case EngineError():
            status, text = 500, str(error)
        case ClientDisconnected():
            # nginx' number; nobody reads it but the log.
            status, text = 499, "The client closed the connection."
        case RequestEntityTooLarge():
            limit = current_app.config["MAX_CONTENT_LENGTH"]
            status = 413
            text = f"The body is larger than {limit} bytes, which is what CHAT_MAX_BODY allows: send less."
        case HTTPException():
            status, text = error.code or 500, error.description or error.name
        case _:
            log.error("answering failed", exc_info=error)
            status, text = 500, "The server failed; its log says more under this request's id."
    return status, openai_error(status, text, field) if path.startswith(OPENAI) else {"detail": text}


def openai_error(status: int, text: str, field: str | None) -> dict[str, Any]:
    """An error in OpenAI's shape; `field` is the one that is wrong, where it is known."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": text, "type": kind, "param": field, "code": CODES.get(status)}}


def invalid(error: ValidationError) -> Response:
    """Answer 422 where a field has the wrong type, else 400 in words; always 400 in OpenAI's API."""
    problems = _by_field(error.errors(include_url=False, include_context=False))[:MOST_REPORTED]
    text = " ".join(_sentence(problem, MODELS[error.title]) for problem in problems)
    if request.path.startswith(OPENAI):
        status, body = 400, openai_error(400, text, _name(problems[0]["loc"]))
    elif any(problem["type"] not in VALUE_ERRORS for problem in problems):
        status = 422
        body = {"detail": [{"type": p["type"], "loc": ["body", *p["loc"]], "msg": p["msg"]} for p in problems]}
    else:
        status, body = 400, {"detail": text}
    response = jsonify(body)
    response.status_code = status
    return response


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


def _name(loc: tuple[int | str, ...]) -> str:
    field = _field(loc)
    return ".".join(str(part) for part in (*field, *(part for part in loc[len(field) :] if isinstance(part, int))))


def _sentence(problem: ErrorDetails, asked: type[BaseModel]) -> str:
    loc = problem["loc"]
    name = _name(loc)
    if problem["type"] == "extra_forbidden":
        model = asked if len(loc) == 1 else GenerateKwargs if loc[0] == "generate_kwargs" and len(loc) == 2 else None
        served = f" Served are: {', '.join(model.model_fields)}." if model else ""
        return f"{name[:100]} is not served; take it out.{served}"
    value = problem["input"]
    given = f", and is {value}" if isinstance(value, int | float) else ""
    return f"{name}: {problem['msg'].replace('Input', 'it', 1)}{given}."
