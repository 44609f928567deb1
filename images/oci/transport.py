"""HTTP requests to a registry: authorization, redirects, retries, and errors that name the remedy."""

import contextlib
import functools
import ssl
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpx

from checkpoints.retry import TRANSIENT_STATUSES, parse_retry_after
from images.errors import ImageError, TransientError
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.oci.authorization import Authorization

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TIMEOUT = httpx.Timeout(60, connect=20)
UPLOAD_TIMEOUT = httpx.Timeout(60, connect=20, read=600)
"""Some registries copy a blob before they respond."""
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
MAX_RENEWALS = 3
"""New tokens for one request: concurrent requests may use up the number of uses that a token allows."""
ERROR_BYTES = 4096
"""The part of an error response that is read for its messages."""


@dataclass(frozen=True)
class Request:
    """A request; `allowed` are further statuses, in addition to success, that the caller handles."""

    method: str
    url: str
    content: bytes | Iterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    allowed: tuple[int, ...] | range = ()
    timeout: httpx.Timeout = field(default_factory=lambda: TIMEOUT)


class Transport:
    """Sends requests to the registry at `host` for the repository that messages call `location`."""

    def __init__(self, host: str, location: str, *, plain_http: bool) -> None:
        secure = not plain_http and urlsplit(f"//{host}").hostname not in LOCAL_HOSTS
        self.origin = f"{'https' if secure else 'http'}://{host}"
        self._location = location
        self._client = httpx.Client(verify=_tls_context(), timeout=TIMEOUT, headers={"User-Agent": "phi3-images"})
        weakref.finalize(self, self._client.close)
        self.authorization = Authorization(self._client, location, host, secure=secure)

    @contextmanager
    def send(self, request: Request) -> Iterator[httpx.Response]:
        """Send a request, and again after a transient failure; yields a response of success or an allowed status."""
        with contextlib.ExitStack() as stack:
            yield retry_transient(lambda: stack.enter_context(self.send_once(request)), Progress.log_line)

    @contextmanager
    def send_once(self, request: Request) -> Iterator[httpx.Response]:
        """Send a request without retry; renew a token that the registry rejects, and follow redirects of reads."""
        url, redirects, renewals = request.url, 0, 0
        repeatable = request.content is None or isinstance(request.content, bytes)
        while True:
            header = self.authorization.header()
            is_registry = url.startswith(f"{self.origin}/")  # no other host gets the credentials
            with self.translate_errors(request.method):
                response = self._client.send(
                    self._client.build_request(
                        request.method,
                        url,
                        content=request.content,
                        headers=request.headers | {"Accept-Encoding": "identity"} | (header if is_registry else {}),
                        timeout=request.timeout,
                    ),
                    stream=True,
                )
            with contextlib.closing(response):
                status = response.status_code
                if status in REDIRECT_STATUSES and request.method in ("GET", "HEAD") and redirects < MAX_REDIRECTS:
                    redirects += 1
                    url = self.resolve(url, response.headers.get("Location", ""))
                    continue
                if status == httpx.codes.UNAUTHORIZED and is_registry and renewals < MAX_RENEWALS:
                    renewals += 1
                    self.authorization.renew(response, header)
                    if repeatable:
                        continue
                    raise TransientError(f"{self._location} no longer accepts the token that it issued")
                if not response.is_success and status not in request.allowed:
                    self._raise_for_status(request.method, response)
                yield response
                return

    def resolve(self, url: str, location: str) -> str:
        """Return the absolute URL of a Location header; raises ImageError if it downgrades from TLS."""
        target = urljoin(url, location)
        if urlsplit(target).scheme not in ("https", urlsplit(self.origin).scheme):
            raise ImageError(
                f"{self._location} redirects to {urlsplit(target).netloc} without TLS: the redirect is not followed"
            )
        return target

    @contextmanager
    def translate_errors(self, method: str) -> Iterator[None]:
        """Turn httpx's exceptions into ImageError or TransientError."""
        try:
            yield
        except httpx.TransportError as error:
            raise TransientError(
                f"{self._location} cannot be reached, or dropped the connection during {method} "
                f"({type(error).__name__} {error}): check its name and the network; "
                "a registry without TLS needs --plain-http"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ImageError(f"the request to {self._location} failed: {error}") from error

    def _raise_for_status(self, method: str, response: httpx.Response) -> None:
        """Raise the error for a response that the caller does not handle."""
        status = response.status_code
        with self.translate_errors(method):
            messages = _error_messages(next(response.iter_bytes(ERROR_BYTES), b""))
        text = f"{self._location} returned HTTP {status} to {method}{messages}"
        host = urlsplit(str(response.url)).netloc
        if status in TRANSIENT_STATUSES:
            raise TransientError(text, parse_retry_after(response.headers))
        if status in (401, 403):
            raise ImageError(
                f"{text}: log in with `docker login {host}`, or set REGISTRY_USERNAME and REGISTRY_PASSWORD, "
                "to an account with access"
            )
        if status == httpx.codes.NOT_FOUND:
            raise ImageError(f"{text}: check the names of the registry and the repository")
        if status in (413, 416):
            raise ImageError(f"{text}: the registry or a proxy limits the size of a request; raise that limit")
        raise ImageError(text)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return the trusted certificates, which take a tenth of a second to read."""
    return httpx.create_ssl_context()


def _error_messages(body: bytes) -> str:
    """Return the messages in a registry's error response, in parentheses.

    Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
    """
    try:
        errors = httpx.Response(200, content=body).json()["errors"]
        return f" ({'; '.join(str(error.get('message') or error.get('code')) for error in errors)})"
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
