"""Readable messages for fields that fail pydantic's validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

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
    "string_too_short",
    "too_long",
    "too_short",
    "value_error",
}
MAX_PROBLEMS = 20
MAX_NAME_LENGTH = 100

# Keys and list indexes that lead to a value in the request body.
Path = tuple[int | str, ...]


class InvalidFieldsError(Exception):
    """Fields of a request body are invalid.

    Attributes:
        problems: pydantic's errors, at most MAX_PROBLEMS.
        field: dotted name of the first invalid field.

    Args:
        error: raised by pydantic.
        model: model of the request body.
        body: the request body.
    """

    def __init__(self, error: ValidationError, model: type[BaseModel] | None, body: Any) -> None:
        models = _models_by_path(model) if model else {}
        problems = [_Problem(details, *_path(details, body)) for details in error.errors(include_url=False)]
        best = _best_problems(problems)[:MAX_PROBLEMS]
        # A field with several types has the same problem for each of them.
        super().__init__(" ".join(dict.fromkeys(problem.sentence(models) for problem in best)))
        self.problems = tuple(problem.details for problem in best)
        self.field = best[0].name


def raise_invalid_fields(error: ValidationError) -> NoReturn:
    """Raise InvalidFieldsError for the body of the current request, which failed validation with `error`."""
    view = current_app.view_functions[request.endpoint or ""]
    raise InvalidFieldsError(error, view.__annotations__.get("body"), request.get_json(force=True, silent=True))


def _models_by_path(body: type[BaseModel]) -> dict[Path, type[BaseModel]]:
    """Return the model of the body, at (), and the models of its fields."""
    models: dict[Path, type[BaseModel]] = {(): body}
    for name, field in body.model_fields.items():
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                models[name,] = kind
    return models


@dataclass(frozen=True, slots=True)
class _Problem:
    """An error of pydantic.

    Attributes:
        details: as pydantic reports it.
        path: of the invalid value in the body.
        field: of the field with several types that contains it, or `path`.
    """

    details: ErrorDetails
    path: Path
    field: Path

    @property
    def name(self) -> str:
        """Dotted name of the invalid value."""
        return ".".join(map(str, self.path))

    def sentence(self, models: Mapping[Path, type[BaseModel]]) -> str:
        """Return what is wrong and what is allowed."""
        if self.details["type"] == "extra_forbidden":
            model = models.get(self.path[:-1])
            supported = f" Supported fields: {', '.join(model.model_fields)}." if model else ""
            return f"Unknown field {self.name[:MAX_NAME_LENGTH]}.{supported}"
        message = self.details["msg"].removeprefix("Value error, ")
        value = self.details["input"]
        received = f", but is {value}" if isinstance(value, int | float) else ""
        if message.startswith("Input should "):
            return f"{self.name} must {message.removeprefix('Input should ')}{received}."
        return f"{self.name}: {message}{received}."


def _path(details: ErrorDetails, body: Any) -> tuple[Path, Path]:
    """Return `path` and `field` of a problem.

    pydantic's location also has the names of the types that it tried; those are no keys of the body.
    """
    path: list[int | str] = []
    field: Path | None = None
    value = body
    for index, part in enumerate(details["loc"]):
        is_missing = details["type"] == "missing" and index == len(details["loc"]) - 1
        if _contains(value, part):
            value = value[part]
        elif not is_missing:
            field = field or tuple(path)
            continue
        path.append(part)
    return tuple(path), field or tuple(path)


def _contains(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _best_problems(problems: list[_Problem]) -> list[_Problem]:
    """Keep, for each field with several allowed types, the errors of the type that the value has, if any."""
    fields: dict[Path, list[_Problem]] = {}
    for problem in problems:
        fields.setdefault(problem.field, []).append(problem)
    best: list[_Problem] = []
    for field_problems in fields.values():
        best += [problem for problem in field_problems if problem.details["type"] in VALUE_ERRORS] or field_problems
    return best
