"""The chat page: static files for browsers, which call OpenAI's API of this server."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from flask import Response, abort, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

STATIC = Path(__file__).with_name("static")
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    # File names do not change with their content, so browsers must revalidate them (by ETag).
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# The response of `/` to a browser, for the OpenAPI document.
HTML = {"content": {"text/html": {"schema": {"type": "string"}}}}


class Home(BaseModel):
    """Response of `/` to clients other than browsers."""

    model_config = {"openapi_extra": HTML}  # type: ignore[typeddict-unknown-key]

    message: str = Field(description="always: Server is running")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page, ready to serve."""

    body: bytes
    content_type: str
    etag: str


def _read_file(path: Path) -> StaticFile:
    body = path.read_bytes()
    return StaticFile(body, CONTENT_TYPES[path.suffix], hashlib.sha256(body).hexdigest())


FILES = {path.relative_to(STATIC).as_posix(): _read_file(path) for path in STATIC.rglob("*") if path.is_file()}

blueprint = APIBlueprint("page", __name__, abp_tags=[Tag(name="page", description="chat page")])


@blueprint.get(
    "/",
    summary="Confirm that the server runs, or show the chat page to a browser",
    operation_id="home",
    responses={200: Home},
)
def home() -> Response:
    """Return HTML if the client prefers it, else JSON."""
    # A client without a preference, such as curl with */*, gets JSON.
    preferred = request.accept_mimetypes.best_match(["application/json", "text/html"])
    response = _file_response("index.html") if preferred == "text/html" else jsonify(message="Server is running")
    response.vary.add("Accept")
    return response


@blueprint.route("/page/<path:name>")
def static(name: str) -> Response:
    """Return a file of the page."""
    if name not in FILES:
        abort(404)
    return _file_response(name)


def _file_response(name: str) -> Response:
    file = FILES[name]
    response = Response(file.body, content_type=file.content_type, headers=HEADERS)
    response.set_etag(file.etag)
    response.make_conditional(request)
    return response
