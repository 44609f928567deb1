"""Access to a registry: basic authentication, or bearer tokens that are fetched and renewed as it asks.

Source: https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/
"""

import base64
import contextlib
import re
import threading
from collections import defaultdict
from urllib.parse import urlsplit

import httpx

from images.errors import ImageError, TransientError
from images.io.retry import TRANSIENT, retry_after
from images.oci.credentials import Credentials, find


class Authorization:
    """What requests to one repository carry; `place` is what errors call it."""

    def __init__(self, client: httpx.Client, place: str, host: str, *, secure: bool) -> None:
        self._client = client
        self._place = place
        self._host = host
        self._secure = secure
        self._header: dict[str, str] = {}
        self._scopes: dict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()

    def header(self) -> dict[str, str]:
        """Return the header to send, none before it is asked for."""
        return self._header

    def add(self, repository: str, action: str) -> None:
        """Ask for access to another repository too, from the next token on."""
        with self._lock:
            if self._header.get("Authorization", "").startswith("Bearer ") and action not in self._scopes[repository]:
                self._header = {}
            self._scopes[repository].add(action)

    def renew(self, response: httpx.Response, refused: dict[str, str]) -> None:
        """Get what an answer 401 asks for, in place of the header that it refused.

        Raises ImageError where that cannot be had.
        """
        with self._lock:
            if self._header != refused:
                return  # another thread was faster
            challenge = response.headers.get("WWW-Authenticate", "")
            scheme, _, rest = challenge.partition(" ")
            parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            credentials = find(self._host)
            if scheme.lower() == "bearer" and "realm" in parameters:
                self._header = {"Authorization": f"Bearer {self._token(parameters, credentials)}"}
            elif scheme.lower() == "basic" and credentials and not refused:
                self._header = _basic(credentials)
            else:
                raise ImageError(
                    f"{self._place} asks who we are (HTTP 401), and "
                    + ("does not accept the credentials that it was given" if credentials else "no credentials are set")
                    + f": log in with `docker login {self._host}`, or set REGISTRY_USERNAME and REGISTRY_PASSWORD"
                )

    def _token(self, parameters: dict[str, str], credentials: Credentials | None) -> str:
        realm = parameters["realm"]
        if self._secure and urlsplit(realm).scheme != "https":
            raise ImageError(f"{self._place} wants credentials to be sent to {realm} without encryption: not done")
        for scope in parameters.get("scope", "").split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if kind == "repository":
                self._scopes[name] |= set(actions.split(","))
        scopes = [f"repository:{name}:{','.join(sorted(actions))}" for name, actions in self._scopes.items()]
        query = {"scope": scopes}
        if "service" in parameters:
            query["service"] = [parameters["service"]]
        try:
            if credentials and credentials.identity_token:
                form = {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "client_id": "phi3-images",
                    "service": parameters.get("service", ""),
                    "scope": " ".join(scopes),
                }
                response = self._client.post(realm, data=form)
            else:
                headers = _basic(credentials) if credentials else {}
                response = self._client.get(realm, params=query, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(f"{realm}, where {self._place} has its tokens, cannot be reached: {error}") from error
        if response.status_code in TRANSIENT:
            raise TransientError(f"{realm} answered HTTP {response.status_code}", retry_after(response.headers))
        with contextlib.suppress(ValueError, LookupError, TypeError):
            if response.is_success:
                content = response.json()
                return str(content.get("token") or content["access_token"])
        raise ImageError(
            f"{realm} gives no token for {self._place} (HTTP {response.status_code}): log in with "
            f"`docker login {self._host}`, or set REGISTRY_USERNAME and REGISTRY_PASSWORD, as somebody who may do that"
        )


def _basic(credentials: Credentials) -> dict[str, str]:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
