"""Access to a registry: basic authentication, or bearer tokens that are fetched and renewed on demand.

Sources: https://distribution.github.io/distribution/spec/auth/token/ and
https://distribution.github.io/distribution/spec/auth/oauth/
"""

import base64
import contextlib
import re
import threading
from collections import defaultdict
from urllib.parse import urlsplit

import httpx

from checkpoints.retry import TRANSIENT_STATUSES, parse_retry_after
from images.errors import ImageError, TransientError
from images.oci.credentials import Credentials, find_credentials

CLIENT_ID = "phi3-images"


class Authorization:
    """The credentials of requests to one repository; `location` is its name in messages."""

    def __init__(self, client: httpx.Client, location: str, host: str, *, secure: bool) -> None:
        self._client = client
        self._location = location
        self._host = host
        self._secure = secure
        self._header: dict[str, str] = {}
        self._scopes: dict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()

    def header(self) -> dict[str, str]:
        """Return the header to send; it is empty until the registry asks for one."""
        return self._header

    def request_scope(self, repository: str, action: str) -> None:
        """Include access to another repository in the next token."""
        with self._lock:
            if self._header.get("Authorization", "").startswith("Bearer ") and action not in self._scopes[repository]:
                self._header = {}
            self._scopes[repository].add(action)

    def renew(self, response: httpx.Response, refused: dict[str, str]) -> None:
        """Replace the header `refused` by what the challenge of a 401 response asks for.

        Raises ImageError if the credentials are missing or wrong.
        """
        with self._lock:
            if self._header != refused:
                return  # another thread has renewed it
            challenge = response.headers.get("WWW-Authenticate", "")
            scheme, _, rest = challenge.partition(" ")
            parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            credentials = find_credentials(self._host)
            if scheme.lower() == "bearer" and "realm" in parameters:
                self._header = {"Authorization": f"Bearer {self._fetch_token(parameters, credentials)}"}
            elif scheme.lower() == "basic" and credentials and not refused:
                self._header = _basic(credentials)
            else:
                reason = "rejected the credentials" if credentials else "requires credentials, and none are set"
                raise ImageError(
                    f"{self._location} {reason} (HTTP 401): log in with `docker login {self._host}`, "
                    "or set REGISTRY_USERNAME and REGISTRY_PASSWORD"
                )

    def _fetch_token(self, parameters: dict[str, str], credentials: Credentials | None) -> str:
        realm = parameters["realm"]
        if self._secure and urlsplit(realm).scheme != "https":
            raise ImageError(f"{self._location} asks for credentials at {realm} without TLS: they are not sent")
        for scope in parameters.get("scope", "").split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if kind == "repository":
                self._scopes[name] |= set(actions.split(","))
        response = self._request_token(realm, parameters, credentials)
        if response.status_code in TRANSIENT_STATUSES:
            raise TransientError(f"{realm} returned HTTP {response.status_code}", parse_retry_after(response.headers))
        with contextlib.suppress(ValueError, LookupError, TypeError):
            if response.is_success:
                content = response.json()
                return str(content.get("token") or content["access_token"])
        raise ImageError(
            f"{realm} issues no token for {self._location} (HTTP {response.status_code}): log in with "
            f"`docker login {self._host}`, or set REGISTRY_USERNAME and REGISTRY_PASSWORD, to an account with access"
        )

    def _request_token(self, realm: str, parameters: dict[str, str], credentials: Credentials | None) -> httpx.Response:
        """Ask the token server, which `realm` names, for all scopes collected so far."""
        scopes = [f"repository:{name}:{','.join(sorted(actions))}" for name, actions in self._scopes.items()]
        try:
            if credentials and credentials.identity_token:
                form = {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "client_id": CLIENT_ID,
                    "service": parameters.get("service", ""),
                    "scope": " ".join(scopes),
                }
                return self._client.post(realm, data=form)
            query = {"scope": scopes}
            if "service" in parameters:
                query["service"] = [parameters["service"]]
            return self._client.get(realm, params=query, headers=_basic(credentials) if credentials else {})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(f"{realm}, the token server of {self._location}, is unreachable: {error}") from error


def _basic(credentials: Credentials) -> dict[str, str]:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
