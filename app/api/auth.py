"""Who may ask: API keys, the pages of other sites, and what browsers are told to leave alone."""

import hmac
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from app.logs import logger

log = logger(__name__)

# Asked by machines that have no key, and the page, which is where a person gives one.
OPEN = {"/", "/livez", "/readyz", "/startupz", "/healthz"}
OPEN_FOLDER = "/page/"
# Least characters of a key.
KEY_LENGTH = 8


class KeysError(ValueError):
    """A file of API keys cannot be used; the text says why."""


class Keys:
    """The API keys in a file, one a line; empty lines and those that begin with # do not count.

    A file that changes is read again, and one that cannot be used any more leaves the keys as they were.

    Raises:
        KeysError: the file cannot be read, has no key, or one that is too short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = (0, 0)
        self._keys: list[bytes] = []
        self._update()

    def allow(self, key: str) -> bool:
        """Whether `key` is one of them, in a time that does not tell how nearly it is."""
        try:
            self._update()
        except KeysError as error:
            log.error("API keys stay as they were", reason=str(error))
        # All are compared, so that the time does not tell which one it is.
        return sum(hmac.compare_digest(key.encode(), known) for known in self._keys) > 0

    def _update(self) -> None:
        try:
            status = self._path.stat()
            state = (status.st_mtime_ns, status.st_ino)
            if state == self._state:
                return
            lines = [line.strip() for line in self._path.read_text().splitlines()]
        except (OSError, UnicodeError) as error:
            raise KeysError(f"{self._path}, the file of API keys, cannot be read: {error}") from None
        keys = [line.encode() for line in lines if line and not line.startswith("#")]
        if not keys or min(map(len, keys)) < KEY_LENGTH:
            raise KeysError(
                f"{self._path}, the file of API keys, must hold one a line, each of at least {KEY_LENGTH} characters."
            )
        self._keys, self._state = keys, state


def guard(app: Flask, keys: Keys | None, origins: str) -> None:
    """Ask each request for a key, unless `keys` is None, and answer browsers for pages of `origins`.

    `origins` are separated by commas; "*" is any, and "" none.
    """
    allowed = {origin.strip() for origin in origins.split(",") if origin.strip()}

    @app.before_request
    def check_key() -> None:
        open_to_all = request.path in OPEN or request.path.startswith(OPEN_FOLDER)
        # A browser asks with OPTIONS, and without a key, whether it may ask.
        if keys is None or open_to_all or request.method == "OPTIONS":
            return
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not keys.allow(key.strip()):
            raise Unauthorized(
                "A valid API key is needed: send it with the header Authorization: Bearer KEY.",
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
