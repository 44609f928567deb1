"""Respond to every error with JSON, in the format of the API that was called."""

from collections.abc import Mapping

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app.api.errors import ErrorFormatter, describe_error
from app.engine.exceptions import QueueFullError
from app.exceptions import RetryLaterError


def register(app: Flask, formatters: Mapping[str, ErrorFormatter], default: ErrorFormatter) -> None:
    """Handle all errors of `app`, which has its routes already.

    Args:
        app: the application.
        formatters: error formatter of each blueprint, by the blueprint's name.
        default: error formatter of all other routes and of unknown ones.
    """
    # By the first segment of the path, because an unknown route or a wrong method has no blueprint.
    by_segment = {
        _first_segment(rule.rule): formatters[blueprint]
        for rule in app.url_map.iter_rules()
        if (blueprint := rule.endpoint.rpartition(".")[0]) in formatters
    }

    @app.errorhandler(Exception)
    def respond(error: Exception) -> Response:
        formatter = by_segment.get(_first_segment(request.path), default)
        status, body = formatter(describe_error(error))
        response = jsonify(body)
        response.status_code = status
        if isinstance(error, QueueFullError | RetryLaterError):
            response.headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, HTTPException):
            for name, value in error.get_headers():
                if name in {"Allow", "Retry-After", "WWW-Authenticate"}:
                    response.headers[name] = value
        if status in {500, 504}:
            # OpenAI's clients retry these by default, although the same request would fail again.
            response.headers["x-should-retry"] = "false"
        return response


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1]
