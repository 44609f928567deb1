"""Readable messages for fields that fail pydantic's validation."""

from collections.abc import Mapping
from typing import NoReturn, get_args

from flask import current_app, request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# pydantic's error types for a value that has the right type.
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
MAX_PROBLEMS = 20
MAX_NAME_LENGTH = 100

# A path of pydantic's: field names and list indexes.
Location = tuple[int | str, ...]


class InvalidFieldsError(Exception):
    """Fields of a request body are invalid.

    Attributes:
        problems: pydantic's errors, at most MAX_PROBLEMS.
        field: dotted name of the first invalid field.

    Args:
        error: raised by pydantic.
        body: model of the request body.
    """

    def __init__(self, error: ValidationError, body: type[BaseModel] | None) -> None:
        models = _models_by_location(body) if body else {}
        problems = _best_problems(error.errors(include_url=False, include_context=False))[:MAX_PROBLEMS]
        super().__init__(" ".join(_sentence(problem, models) for problem in problems))
        self.problems = tuple(problems)
        self.field = _field_name(problems[0]["loc"])


def raise_invalid_fields(error: ValidationError) -> NoReturn:
    """Raise InvalidFieldsError for the body of the current request, which failed validation with `error`."""
    view = current_app.view_functions[request.endpoint or ""]
    raise InvalidFieldsError(error, view.__annotations__.get("body"))


def _models_by_location(body: type[BaseModel]) -> dict[Location, type[BaseModel]]:
    """Return the model of the body, at (), and the models of its fields."""
    models: dict[Location, type[BaseModel]] = {(): body}
    for name, field in body.model_fields.items():
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                models[name,] = kind
    return models


def _best_problems(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Keep, for each field with several allowed types, the errors of the type that the value has, if any."""
    fields: dict[Location, list[ErrorDetails]] = {}
    for problem in problems:
        fields.setdefault(_field_path(problem["loc"]), []).append(problem)
    best: list[ErrorDetails] = []
    for field_problems in fields.values():
        best += [problem for problem in field_problems if problem["type"] in VALUE_ERRORS] or field_problems
    return best


def _field_path(location: Location) -> Location:
    """Return the path of a field without the type names that pydantic adds to fields with several types."""
    return location[:2] if location[:1] == ("generate_kwargs",) else location


def _field_name(location: Location) -> str:
    field = _field_path(location)
    indexes = (part for part in location[len(field) :] if isinstance(part, int))
    return ".".join(str(part) for part in (*field, *indexes))


def _sentence(problem: ErrorDetails, models: Mapping[Location, type[BaseModel]]) -> str:
    name = _field_name(problem["loc"])
    if problem["type"] == "extra_forbidden":
        model = models.get(problem["loc"][:-1])
        supported = f" Supported fields: {', '.join(model.model_fields)}." if model else ""
        return f"Unknown field {name[:MAX_NAME_LENGTH]}.{supported}"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    received = f", but is {value}" if isinstance(value, int | float) else ""
    if message.startswith("Input should "):
        return f"{name} must {message.removeprefix('Input should ')}{received}."
    return f"{name}: {message}{received}."
