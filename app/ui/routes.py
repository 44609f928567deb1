"""The chat page: static files for browsers, which then talk to this server's own OpenAI API."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from flask import Response, abort, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

FOLDER = Path(__file__).with_name("static")
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Cache-Control": "no-cache",  # may be kept, but is asked for by its ETag: the names do not change with the content
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# A browser's answer of `/`, for the OpenAPI document.
HTML = {"content": {"text/html": {"schema": {"type": "string"}}}}


class Home(BaseModel):
    """Answer of `/` to all but browsers."""

    model_config = {"openapi_extra": HTML}  # type: ignore[typeddict-unknown-key]

    message: str = Field(description="always: Server is running")


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    type: str
    etag: str


def blueprint() -> APIBlueprint:
    """Build the blueprint of the chat page and of `/`."""
    page = APIBlueprint("page", __name__, abp_tags=[Tag(name="page", description="the chat page")])
    files = {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.is_file()}

    @page.get(
        "/",
        summary="Whether a server answers here; to a browser, the chat page",
        operation_id="home",
        responses={200: Home},
    )
    def home() -> Response:
        # Equally welcome, as with */*, means JSON.
        wanted = request.accept_mimetypes.best_match(["application/json", "text/html"])
        response = _response(files["index.html"]) if wanted == "text/html" else jsonify(message="Server is running")
        response.vary.add("Accept")
        return response

    @page.route("/page/<path:name>")
    def static(name: str) -> Response:
        if name not in files:
            abort(404)
        return _response(files[name])

    return page


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, TYPES[path.suffix], hashlib.sha256(body).hexdigest())


def _response(file: _File) -> Response:
    response = Response(file.body, content_type=file.type, headers=HEADERS)
    response.set_etag(file.etag)
    response.make_conditional(request)
    return response
