"""Images in a repository of a registry, over the protocol of the OCI's distribution specification.

A blob goes up in one POST and one PUT, with its digest and length known: the only way that every registry takes.
Whatever a registry answers, a blob counts as stored only when a HEAD finds it, at its size.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import contextlib
import functools
import json
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import httpx

from images.errors import ImageError, TransientError
from images.io.progress import Progress
from images.io.retry import TRANSIENT, retried, retry_after
from images.oci.authorization import Authorization
from images.oci.credentials import DOCKER_HUB
from images.oci.store import INDEX, LARGEST_DOCUMENT, MANIFEST, Manifest, Store, descriptor, dump
from images.weights.layer import digested

ACCEPT = (
    MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
    INDEX,
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
LOCAL = ("localhost", "127.0.0.1", "::1")
TIMEOUT = httpx.Timeout(60, connect=20)
UPLOAD_TIMEOUT = httpx.Timeout(60, connect=20, read=600)  # some registries copy a blob before they answer
REDIRECTS = 5
WRITES = 5  # of a list of referrers, which another may write at the same time
RENEWALS = 3  # of a token, for one request: others may use up what a token allows
REDIRECT = (301, 302, 303, 307, 308)


class Registry:
    """A repository `name` at `host` ("ghcr.io", "localhost:5000")."""

    def __init__(self, host: str, name: str, *, plain_http: bool = False) -> None:
        self.place = f"{host}/{name}"
        self.sent = 0
        if host in DOCKER_HUB:
            host, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
        secure = not plain_http and urlsplit(f"//{host}").hostname not in LOCAL
        self.origin = f"{'https' if secure else 'http'}://{host}"
        self.name = name
        self._base = f"{self.origin}/v2/{name}"
        self._client = httpx.Client(verify=_certificates(), timeout=TIMEOUT, headers={"User-Agent": "phi3-images"})
        weakref.finalize(self, self._client.close)
        self._authorization = Authorization(self._client, self.place, host, secure=secure)

    def size(self, digest: str) -> int | None:
        """Ask for a blob's size."""
        with self._request("HEAD", f"{self._base}/blobs/{digest}", allowed=(404,)) as response:
            return int(response.headers.get("Content-Length", -1)) if response.is_success else None

    def write(self, digest: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Upload a blob; what the registry does not confirm, or `content` breaks off, is cancelled."""
        with self._once("POST", f"{self._base}/blobs/uploads/", content=b"") as response:
            location = self._location(response)
        try:
            address = _with_query(location, digest=digest)
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            with self._once("PUT", address, content=content(), headers=headers, timeout=UPLOAD_TIMEOUT):
                pass
            self.sent += size
            self._confirm(digest, size)
        except BaseException:
            with contextlib.suppress(ImageError), self._once("DELETE", location, allowed=range(400, 600)):
                pass
            raise

    def read(self, digest: str) -> Iterator[bytes]:
        """Download a blob."""
        with self._once("GET", f"{self._base}/blobs/{digest}") as response, self._explained("GET"):
            yield from digested(response.iter_bytes(), digest, f"{digest} in {self.place}")

    def borrow(self, digest: str, size: int, source: Store) -> bool:
        """Mount a blob of another repository of this registry; some say they did, and did not."""
        if not isinstance(source, Registry) or source.origin != self.origin:
            return False
        if source.name != self.name:
            self._authorization.add(source.name, "pull")
            query = {"mount": digest, "from": source.name}
            with self._request("POST", _with_query(f"{self._base}/blobs/uploads/", **query), content=b"") as response:
                if response.status_code == httpx.codes.ACCEPTED:
                    with self._once("DELETE", self._location(response), allowed=range(400, 600)):
                        return False
        return self.size(digest) == size

    def manifest(self, reference: str) -> Manifest | None:
        """Fetch a manifest."""
        headers = {"Accept": ", ".join(ACCEPT)}
        address = f"{self._base}/manifests/{reference}"
        with self._request("GET", address, headers=headers, allowed=(404,)) as response:
            if not response.is_success:
                return None
            body = self._document(response, f"the manifest {reference}")
            manifest = Manifest(body, response.headers.get("Content-Type", ""))
        if reference.startswith("sha256:") and manifest.digest != reference:
            raise ImageError(f"{self.place} answered {manifest.digest} when asked for {reference}: do not trust it")
        return manifest

    def tag(self, reference: str, manifest: Manifest) -> None:
        """Upload a manifest, and read it back."""
        address, headers = f"{self._base}/manifests/{reference}", {"Content-Type": manifest.media_type}
        with self._request("PUT", address, content=manifest.body, headers=headers):
            self.sent += len(manifest.body)
        if self.manifest(manifest.digest) != manifest:
            raise ImageError(f"{self.place} took the manifest {manifest.digest}, and does not give it back unchanged")

    def attach(self, manifest: Manifest) -> None:
        """Upload a manifest, and list it where the registry does not: under a tag made of the subject's digest."""
        address, headers = f"{self._base}/manifests/{manifest.digest}", {"Content-Type": manifest.media_type}
        with self._request("PUT", address, content=manifest.body, headers=headers) as response:
            self.sent += len(manifest.body)
            if "OCI-Subject" in response.headers:
                return
        subject, entry = manifest.content["subject"]["digest"], descriptor(manifest)
        for _ in range(WRITES):
            listed = self._listed(subject)
            if entry in listed:
                return
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, entry]}
            self.tag(subject.replace(":", "-"), Manifest(dump(index), INDEX))
        raise TransientError(f"{self.place} keeps losing {manifest.digest} from the referrers of {subject}")

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Ask for the referrers of a manifest, page by page, or for the tag that lists them in older registries."""
        found, address = list[dict[str, Any]](), f"{self._base}/referrers/{digest}"
        while address:
            headers = {"Accept": INDEX}
            with self._request("GET", address, headers=headers, allowed=(400, 404, 405, 406)) as response:
                if not response.is_success or not response.headers.get("Content-Type", "").startswith(INDEX):
                    return self._listed(digest)
                found += _manifests(self._document(response, f"the list of the referrers of {digest}"))
                following = response.links.get("next", {}).get("url")
                address = self._same_security(str(response.url), following) if following else ""
        return found

    def _listed(self, digest: str) -> list[dict[str, Any]]:
        """Return the referrers that the tag for them lists."""
        index = self.manifest(digest.replace(":", "-"))
        return _manifests(index.body) if index else []

    def _document(self, response: httpx.Response, name: str) -> bytes:
        """Return an answer's body, which may not be too large."""
        body = b""
        with self._explained("GET"):
            for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST_DOCUMENT:
                    raise ImageError(f"{name} of {self.place} is larger than a manifest may be")
        return body

    def _confirm(self, digest: str, size: int) -> None:
        found = self.size(digest)
        if found != size:
            has = "does not have it" if found is None else f"has {found:,} bytes of it, not {size:,}"
            raise TransientError(f"{self.place} accepted the blob {digest}, and {has}")

    def _location(self, response: httpx.Response) -> str:
        """Return where an upload goes on."""
        location = response.headers.get("Location")
        if response.status_code != httpx.codes.ACCEPTED or not location:
            raise ImageError(
                f"{self.place} answered HTTP {response.status_code} where an upload should begin (202 and a Location): "
                "it does not speak a registry's protocol"
            )
        return self._same_security(str(response.url), location)

    @contextmanager
    def _request(
        self, method: str, address: str, *, allowed: tuple[int, ...] = (), content: bytes | None = None, **more: object
    ) -> Iterator[httpx.Response]:
        """Make a request, again where that may help; yields the answer, a success or of an allowed status."""
        with contextlib.ExitStack() as stack:

            def once() -> httpx.Response:
                one = self._once(method, address, allowed=allowed, content=content, **more)  # type: ignore[arg-type]
                return stack.enter_context(one)

            yield retried(once, Progress.say)

    @contextmanager
    def _once(
        self,
        method: str,
        address: str,
        *,
        allowed: "tuple[int, ...] | range" = (),
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> Iterator[httpx.Response]:
        """Make a request once, with a new token where the one at hand is refused, and follow redirects of reads."""
        repeatable = content is None or isinstance(content, bytes)
        redirects = refused = 0
        while True:
            token = self._authorization.header()
            ours = address.startswith(f"{self.origin}/")  # no other host is told who we are
            sent = {**(headers or {}), "Accept-Encoding": "identity"} | (token if ours else {})
            with self._explained(method):
                request = self._client.build_request(method, address, content=content, headers=sent, timeout=timeout)
                response = self._client.send(request, stream=True)
            with contextlib.closing(response):
                if response.status_code in REDIRECT and method in ("GET", "HEAD") and redirects < REDIRECTS:
                    redirects += 1
                    address = self._same_security(address, response.headers.get("Location", ""))
                    continue
                if response.status_code == httpx.codes.UNAUTHORIZED and ours and refused < RENEWALS:
                    refused += 1
                    self._authorization.renew(response, token)
                    if repeatable:
                        continue
                    raise TransientError(f"{self.place} no longer takes the token it gave")
                if not response.is_success and response.status_code not in allowed:
                    self._refuse(method, response)
                yield response
                return

    def _refuse(self, method: str, response: httpx.Response) -> None:
        """Raise what an answer means."""
        status = response.status_code
        with self._explained(method):
            detail = _detail(next(response.iter_bytes(4096), b""))
        text = f"{self.place} answered HTTP {status} to {method}{detail}"
        host = urlsplit(str(response.url)).netloc
        if status in TRANSIENT:
            raise TransientError(text, retry_after(response.headers))
        if status in (401, 403):
            raise ImageError(
                f"{text}: log in with `docker login {host}`, or set REGISTRY_USERNAME and REGISTRY_PASSWORD, as "
                "somebody who may do that"
            )
        if status == httpx.codes.NOT_FOUND:
            raise ImageError(f"{text}: check the name of the registry and of the repository")
        if status in (413, 416):
            raise ImageError(f"{text}: it, or a proxy in front of it, limits the size of a request: raise that limit")
        raise ImageError(text)

    def _same_security(self, address: str, location: str) -> str:
        """Return where a redirect or an upload leads, which may not be less secure."""
        target = urljoin(address, location)
        if urlsplit(target).scheme not in ("https", urlsplit(self.origin).scheme):
            raise ImageError(f"{self.place} sends us to {urlsplit(target).netloc} without encryption: not followed")
        return target

    @contextmanager
    def _explained(self, method: str) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise TransientError(
                f"{self.place} cannot be reached, or broke off during {method} ({type(error).__name__} {error}): "
                "check its name and the network; a registry without TLS needs --plain-http"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ImageError(f"{self.place} cannot be asked: {error}") from error


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read the certificates of those whom we trust once, which takes a tenth of a second."""
    return httpx.create_ssl_context()


def _with_query(address: str, **query: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query, quote_via=quote)}"


def _manifests(index: bytes) -> list[dict[str, Any]]:
    """Return what an index lists."""
    try:
        found: list[dict[str, Any]] = json.loads(index).get("manifests") or []
        return [one for one in found if one["digest"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ImageError(f"a registry's list of referrers cannot be read ({error!r})") from error


def _detail(body: bytes) -> str:
    """Return the messages in a registry's error."""
    try:
        errors = httpx.Response(200, content=body).json()["errors"]
        return f" ({'; '.join(str(one.get('message') or one.get('code')) for one in errors)})"
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
