"""Access control: API keys, CORS and security headers."""

import hmac
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from app.exceptions import KeysError
from app.logs import logger

log = logger(__name__)

# Probes have no key, and the chat page asks its user for one.
PUBLIC_PATHS = {"/", "/livez", "/readyz", "/startupz", "/healthz"}
PUBLIC_PREFIX = "/page/"
MIN_KEY_LENGTH = 8


class Keys:
    """API keys from a file, one on each line. Empty lines and lines that start with # are ignored.

    The file is reloaded when it changes. If the new content is invalid, the previous keys stay valid.

    Raises:
        KeysError: the file cannot be read, has no key, or has a key that is too short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = (0, 0)
        self._keys: list[bytes] = []
        self._update()

    def allow(self, key: str) -> bool:
        """Return whether `key` is valid, in a time that does not depend on how similar it is to a valid key."""
        try:
            self._update()
        except KeysError as error:
            log.error("the API keys were not reloaded", reason=str(error))
        # Comparing with all keys keeps the time independent of the key that matches.
        return sum(hmac.compare_digest(key.encode(), known) for known in self._keys) > 0

    def _update(self) -> None:
        try:
            status = self._path.stat()
            state = (status.st_mtime_ns, status.st_ino)
            if state == self._state:
                return
            lines = [line.strip() for line in self._path.read_text().splitlines()]
        except (OSError, UnicodeError) as error:
            raise KeysError(f"The API key file {self._path} cannot be read: {error}") from None
        keys = [line.encode() for line in lines if line and not line.startswith("#")]
        if not keys or min(map(len, keys)) < MIN_KEY_LENGTH:
            raise KeysError(
                f"The API key file {self._path} must have one key on each line, "
                f"each with at least {MIN_KEY_LENGTH} characters."
            )
        self._keys, self._state = keys, state


def protect(app: Flask, keys: Keys | None, origins: str) -> None:
    """Require an API key for every request, allow browsers to call from `origins`, and set security headers.

    Args:
        app: the application.
        keys: valid keys, or None to require no key.
        origins: comma-separated origins; "*" allows all, and "" none.
    """
    allowed = {origin.strip() for origin in origins.split(",") if origin.strip()}

    @app.before_request
    def check_key() -> None:
        public = request.path in PUBLIC_PATHS or request.path.startswith(PUBLIC_PREFIX)
        # The preflight requests of browsers use OPTIONS and have no key.
        if keys is None or public or request.method == "OPTIONS":
            return
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not keys.allow(key.strip()):
            raise Unauthorized(
                "A valid API key is required. Send it in the header Authorization: Bearer KEY.",
                www_authenticate=WWWAuthenticate("bearer"),
            )

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        origin = request.headers.get("Origin", "")
        if origin and allowed & {origin, "*"}:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-Id"
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = "GET, POST"
                response.headers["Access-Control-Allow-Headers"] = request.headers.get(
                    "Access-Control-Request-Headers", ""
                )
        if allowed:
            response.vary.add("Origin")
        return response
