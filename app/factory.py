"""Create the Flask application: routes, access control, errors and request logs."""

import re
import time
import uuid
from typing import Any

import structlog
from flask import Request, Response, g, jsonify, request
from flask_openapi3 import Info, OpenAPI
from werkzeug.exceptions import BadRequest

from app import __version__
from app.api import auth, error_handlers, operations
from app.api.auth import Keys
from app.api.chat import errors as chat_errors
from app.api.chat import routes as chat
from app.api.context import attach_model_server
from app.api.openai import errors as openai_errors
from app.api.openai import routes as openai
from app.api.validation import raise_invalid_fields
from app.logs import logger
from app.metrics import Metrics
from app.model_server import ModelServer
from app.output.stream import OutputStream
from app.ui import routes as ui

log = logger("app.http")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Probes and scrapers call these every few seconds.
QUIET_ROUTES = {"/livez", "/readyz", "/startupz", "/healthz", "/metrics"}


class JsonRequest(Request):
    """A request that reports the position of invalid JSON."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Respond with 400."""
        raise BadRequest(f"The body is not valid JSON: {e}.")


def create_app(model_server: ModelServer, keys: Keys | None = None) -> OpenAPI:
    """Return the Flask application for `model_server`; requests need one of `keys` unless that is None."""
    app = OpenAPI(
        "app",
        info=Info(
            title="phi3", version=__version__, description="A Phi-3 model behind KAITO's /chat and OpenAI's API."
        ),
        validation_error_callback=raise_invalid_fields,
        doc_ui=False,
    )
    app.url_map.strict_slashes = False
    app.request_class = JsonRequest
    app.config["MAX_CONTENT_LENGTH"] = model_server.settings.max_body
    attach_model_server(app, model_server)
    for blueprint in (operations.blueprint, chat.blueprint, openai.blueprint, ui.blueprint):
        app.register_api(blueprint)
    _add_openapi_document(app)
    formatters = {"chat": chat_errors.format_error, "openai": openai_errors.format_error}
    error_handlers.register(app, formatters, default=chat_errors.format_error)
    # The request ID comes first, so that refused requests have one too.
    _add_request_id(app)
    auth.protect(app, keys, model_server.settings.cors_origins)
    _add_request_log(app, model_server.metrics)
    return app


def _add_request_id(app: OpenAPI) -> None:
    """Give each request an ID, the client's own if that is safe to log."""

    @app.before_request
    def set_request_id() -> None:
        client_id = request.headers.get("X-Request-Id", "")
        g.request_id = client_id if REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex
        g.started = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _add_request_log(app: OpenAPI, metrics: Metrics) -> None:
    """Count and log each response, and release what its request holds once it is sent."""

    @app.after_request
    def watch_response(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        route = request.url_rule.rule if request.url_rule else "unknown"
        started, method = g.started, request.method
        outputs: list[OutputStream] = g.get("outputs", [])
        metrics.response_started(method, route, response.status_code)

        @response.call_on_close
        def finish() -> None:
            for output in outputs:
                output.close()  # the client may have disconnected before the first delta
            seconds = time.monotonic() - started
            metrics.response_sent(method, route, seconds)
            level = log.debug if route in QUIET_ROUTES and response.status_code in {200, 503} else log.info
            level(
                "request",
                method=method,
                route=route,
                status=response.status_code,
                seconds=round(seconds, 3),
                prompt_tokens=sum(len(output.stream.request.prompt_token_ids) for output in outputs) or None,
                completion_tokens=sum(output.stream.num_tokens for output in outputs) if outputs else None,
            )

        return response


def _add_openapi_document(app: OpenAPI) -> None:
    """Serve the OpenAPI document of the routes that are registered so far."""
    document: dict[str, Any] = app.api_doc
    document["components"].pop("securitySchemes", None)
    for path in document["paths"].values():
        for operation in path.values():
            # flask-openapi3 adds a 422, an array of its own errors, to each operation without one.
            invalid = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
            if invalid.get("schema", {}).get("type") == "array":
                del operation["responses"]["422"]

    @app.route("/openapi.json")
    def openapi() -> Response:
        return jsonify(document)
