"""Images in a repository of a registry, over the OCI distribution protocol.

A blob is uploaded by one POST and one PUT with its digest and length, the only way that every registry supports. An
upload counts as stored only when a HEAD request finds the blob with its size, whatever the registry responded.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from images.errors import ImageError, TransientError
from images.oci.credentials import DOCKER_HUB
from images.oci.digest import verify_digest
from images.oci.manifest import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, INDEX, MANIFEST, Manifest, encode_json
from images.oci.store import MAX_DOCUMENT_BYTES, Store
from images.oci.transport import UPLOAD_TIMEOUT, Request, Transport

ACCEPT = (MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_MANIFEST_LIST)
INDEX_UPDATES = 5
"""Attempts to update an index of referrers that another client may update at the same time."""
ANY_ERROR = range(400, 600)


class Registry:
    """A repository `name` at `host` ("ghcr.io", "localhost:5000")."""

    def __init__(self, host: str, name: str, *, plain_http: bool = False) -> None:
        self.location = f"{host}/{name}"
        self.bytes_sent = 0
        if host in DOCKER_HUB:
            host, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
        self.name = name
        self._transport = Transport(host, self.location, plain_http=plain_http)
        self._base = f"{self.origin}/v2/{name}"

    @property
    def origin(self) -> str:
        """The scheme and host of the registry."""
        return self._transport.origin

    def stat_blob(self, digest: str) -> int | None:
        """Request a blob's size."""
        with self._transport.send(Request("HEAD", f"{self._base}/blobs/{digest}", allowed=(404,))) as response:
            return int(response.headers.get("Content-Length", -1)) if response.is_success else None

    def push_blob(self, digest: str, size: int, open_content: Callable[[], Iterator[bytes]]) -> None:
        """Upload a blob; cancel the upload if the content raises or the registry does not confirm the blob."""
        with self._transport.send_once(Request("POST", f"{self._base}/blobs/uploads/", b"")) as response:
            upload = self._upload_url(response)
        try:
            url = _add_query(upload, digest=digest)
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            with self._transport.send_once(Request("PUT", url, open_content(), headers, timeout=UPLOAD_TIMEOUT)):
                pass
            self.bytes_sent += size
            self._confirm_blob(digest, size)
        except BaseException:
            with (
                contextlib.suppress(ImageError),
                self._transport.send_once(Request("DELETE", upload, allowed=ANY_ERROR)),
            ):
                pass
            raise

    def pull_blob(self, digest: str) -> Iterator[bytes]:
        """Download a blob."""
        with (
            self._transport.send_once(Request("GET", f"{self._base}/blobs/{digest}")) as response,
            self._transport.translate_errors("GET"),
        ):
            yield from verify_digest(response.iter_bytes(), digest, f"{digest} in {self.location}")

    def mount_blob(self, digest: str, size: int, source: Store) -> bool:
        """Mount a blob of another repository of this registry; some registries report success and do not mount it."""
        if not isinstance(source, Registry) or source.origin != self.origin:
            return False
        if source.name != self.name:
            self._transport.authorization.request_scope(source.name, "pull")
            query = {"mount": digest, "from": source.name}
            request = Request("POST", _add_query(f"{self._base}/blobs/uploads/", **query), b"")
            with self._transport.send(request) as response:
                if response.status_code == httpx.codes.ACCEPTED:
                    cancel = Request("DELETE", self._upload_url(response), allowed=ANY_ERROR)
                    with self._transport.send_once(cancel):
                        return False
        return self.stat_blob(digest) == size

    def get_manifest(self, reference: str) -> Manifest | None:
        """Download a manifest."""
        headers = {"Accept": ", ".join(ACCEPT)}
        request = Request("GET", f"{self._base}/manifests/{reference}", headers=headers, allowed=(404,))
        with self._transport.send(request) as response:
            if not response.is_success:
                return None
            body = self._read_document(response, f"the manifest {reference}")
            manifest = Manifest(body, response.headers.get("Content-Type", ""))
        if reference.startswith("sha256:") and manifest.digest != reference:
            raise ImageError(f"{self.location} returned {manifest.digest} for {reference}: do not trust this registry")
        return manifest

    def put_manifest(self, reference: str, manifest: Manifest) -> None:
        """Upload a manifest, and read it back."""
        with self._upload_manifest(reference, manifest):
            pass
        if self.get_manifest(manifest.digest) != manifest:
            raise ImageError(f"{self.location} accepted the manifest {manifest.digest} but returns another one")

    def put_referrer(self, manifest: Manifest) -> None:
        """Upload a manifest; if the registry does not list referrers, add it to the index tagged with the subject."""
        with self._upload_manifest(manifest.digest, manifest) as response:
            if "OCI-Subject" in response.headers:
                return
        subject, entry = manifest.content["subject"]["digest"], manifest.descriptor
        for _ in range(INDEX_UPDATES):
            listed = self._list_tagged_referrers(subject)
            if entry in listed:
                return
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, entry]}
            self.put_manifest(_referrers_tag(subject), Manifest(encode_json(index), INDEX))
        raise TransientError(f"{self.location} keeps losing {manifest.digest} from the referrers of {subject}")

    def list_referrers(self, digest: str) -> list[dict[str, Any]]:
        """Request the referrers of a manifest page by page, or the index that lists them in older registries."""
        found, url = list[dict[str, Any]](), f"{self._base}/referrers/{digest}"
        while url:
            request = Request("GET", url, headers={"Accept": INDEX}, allowed=(400, 404, 405, 406))
            with self._transport.send(request) as response:
                if not response.is_success or not response.headers.get("Content-Type", "").startswith(INDEX):
                    return self._list_tagged_referrers(digest)
                found += _parse_index(self._read_document(response, f"the referrers of {digest}"))
                next_page = response.links.get("next", {}).get("url")
                url = self._transport.resolve(str(response.url), next_page) if next_page else ""
        return found

    def _list_tagged_referrers(self, digest: str) -> list[dict[str, Any]]:
        """Return the referrers that the index with the referrers tag lists."""
        index = self.get_manifest(_referrers_tag(digest))
        return _parse_index(index.body) if index else []

    @contextlib.contextmanager
    def _upload_manifest(self, reference: str, manifest: Manifest) -> Iterator[httpx.Response]:
        url, headers = f"{self._base}/manifests/{reference}", {"Content-Type": manifest.media_type}
        with self._transport.send(Request("PUT", url, manifest.body, headers)) as response:
            self.bytes_sent += len(manifest.body)
            yield response

    def _read_document(self, response: httpx.Response, name: str) -> bytes:
        """Return the body of a response; raises ImageError if it exceeds MAX_DOCUMENT_BYTES."""
        body = b""
        with self._transport.translate_errors("GET"):
            for block in response.iter_bytes():
                body += block
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ImageError(f"{name} of {self.location} exceeds the limit of {MAX_DOCUMENT_BYTES:,} bytes")
        return body

    def _confirm_blob(self, digest: str, size: int) -> None:
        found = self.stat_blob(digest)
        if found != size:
            problem = "does not have it" if found is None else f"has {found:,} bytes of it instead of {size:,}"
            raise TransientError(f"{self.location} accepted the blob {digest} but {problem}")

    def _upload_url(self, response: httpx.Response) -> str:
        """Return the URL of an upload that a POST request has opened."""
        location = response.headers.get("Location")
        if response.status_code != httpx.codes.ACCEPTED or not location:
            raise ImageError(
                f"{self.location} returned HTTP {response.status_code} to the start of an upload instead of 202 with a "
                "Location: it is not a registry"
            )
        return self._transport.resolve(str(response.url), location)


def _add_query(url: str, **query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query, quote_via=quote)}"


def _referrers_tag(digest: str) -> str:
    """Return the tag of the index of referrers in registries without the referrers API.

    Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
    """
    return digest.replace(":", "-")


def _parse_index(body: bytes) -> list[dict[str, Any]]:
    """Return the descriptors in an index."""
    try:
        found: list[dict[str, Any]] = json.loads(body).get("manifests") or []
        return [entry for entry in found if entry["digest"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ImageError(f"a registry's list of referrers cannot be read ({error!r}): attach them again") from error
