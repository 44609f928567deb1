"""Puts the application together: settings, model, routes."""

import re
import time
import uuid
from typing import Any

import structlog
from flask import Request, Response, g, jsonify, request
from flask_openapi3 import Info, OpenAPI
from werkzeug.exceptions import BadRequest

from app import __version__
from app.api import auth as access
from app.api import error_handlers as errors
from app.api import operations
from app.api.auth import Keys
from app.api.chat import routes as chat
from app.api.openai import routes as openai
from app.engine.stream import RequestStream
from app.logs import logger
from app.model_server import Runtime
from app.ui import routes as page

log = logger("app.http")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Asked every few seconds by machines.
QUIET = {"/livez", "/readyz", "/startupz", "/healthz", "/metrics"}


class JsonRequest(Request):
    """A request whose broken JSON is told with its place."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Answer 400."""
        raise BadRequest(f"The body is not valid JSON: {e}.")


def create_app(runtime: Runtime, keys: Keys | None = None) -> OpenAPI:
    """Build the Flask application that serves `runtime`, to those who have one of `keys` where there are such."""
    app = OpenAPI(
        "app",
        info=Info(
            title="phi3", version=__version__, description="A Phi-3 model behind KAITO's /chat and OpenAI's API."
        ),
        validation_error_callback=errors.invalid,
        doc_ui=False,
    )
    app.url_map.strict_slashes = False
    app.request_class = JsonRequest
    app.config["MAX_CONTENT_LENGTH"] = runtime.settings.max_body
    errors.register(app)
    app.register_api(operations.blueprint(runtime))
    app.register_api(chat.blueprint(runtime))
    app.register_api(openai.blueprint(runtime))
    app.register_api(page.blueprint())
    document = _document(app)

    @app.route("/openapi.json")
    def openapi() -> Response:
        return jsonify(document)

    @app.before_request
    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        g.started = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    access.guard(app, keys, runtime.settings.cors_origins)

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        route = request.url_rule.rule if request.url_rule else "unknown"
        runtime.metrics.answered(request.method, route, response.status_code)
        started, method = g.started, request.method
        generations: list[RequestStream] = g.get("generations", [])

        @response.call_on_close
        def tell() -> None:
            for generation in generations:
                generation.cancel()  # where a stream was closed before it was read
            seconds = time.monotonic() - started
            runtime.metrics.closed(method, route, seconds)
            level = log.debug if route in QUIET and response.status_code in {200, 503} else log.info
            level(
                "request",
                method=method,
                route=route,
                status=response.status_code,
                seconds=round(seconds, 3),
                prompt_tokens=sum(len(generation.request.prompt_token_ids) for generation in generations) or None,
                completion_tokens=sum(generation.num_tokens for generation in generations) if generations else None,
            )

        return response

    return app


def _document(app: OpenAPI) -> dict[str, Any]:
    """The OpenAPI document, without what the library adds: 422 where there is none, and null schemes."""
    document: dict[str, Any] = app.api_doc
    document["components"].pop("securitySchemes", None)
    for route, path in document["paths"].items():
        for operation in path.values():
            if "requestBody" not in operation or route.startswith(errors.OPENAI):
                operation["responses"].pop("422", None)
    return document
