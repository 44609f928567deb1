"""A repository of images, in a registry or on disk, behind one interface."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from images.errors import ImageError
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.oci.digest import digest_of
from images.oci.manifest import Manifest

MAX_DOCUMENT_BYTES = 4 << 20
"""The largest manifest or configuration; registries accept no larger ones."""


class Store(Protocol):
    """One repository. Every method raises ImageError, or TransientError if a retry may help."""

    location: str
    """The name of the store in messages."""
    bytes_sent: int
    """Bytes of blobs and manifests written so far."""

    def stat_blob(self, digest: str) -> int | None:
        """Return the size of a blob, or None if the store lacks it."""

    def push_blob(self, digest: str, size: int, open_content: Callable[[], Iterator[bytes]]) -> None:
        """Store a blob from the blocks that `open_content()` yields; if those raise, nothing is stored."""

    def pull_blob(self, digest: str) -> Iterator[bytes]:
        """Yield the blocks of a blob; raises ImageError before the last one if the digest does not match."""

    def mount_blob(self, digest: str, size: int, source: "Store") -> bool:
        """Take a blob from another store without moving its bytes, and return whether that succeeded."""

    def get_manifest(self, reference: str) -> Manifest | None:
        """Return the manifest with this tag or digest, or None if there is none."""

    def put_manifest(self, reference: str, manifest: Manifest) -> None:
        """Store a manifest under a tag or under its digest."""

    def put_referrer(self, manifest: Manifest) -> None:
        """Store a manifest that has a subject, and list it among the subject's referrers."""

    def list_referrers(self, digest: str) -> list[dict[str, Any]]:
        """Return the descriptors of the manifests whose subject has this digest."""


def push_bytes(store: Store, content: bytes) -> str:
    """Push a small blob, unless the store has it already, and return its digest."""
    digest = digest_of(content)
    if store.stat_blob(digest) is None:
        retry_transient(lambda: store.push_blob(digest, len(content), lambda: iter([content])), Progress.log_line)
    return digest


def pull_bytes(store: Store, digest: str) -> bytes:
    """Return a small blob; raises ImageError if it is larger than MAX_DOCUMENT_BYTES."""

    def attempt() -> bytes:
        body = b""
        for block in store.pull_blob(digest):
            body += block
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ImageError(f"{digest} in {store.location} exceeds the limit of {MAX_DOCUMENT_BYTES:,} bytes")
        return body

    return retry_transient(attempt, Progress.log_line)


def get_json_blob(store: Store, digest: str) -> dict[str, Any]:
    """Return the content of a JSON blob, such as an image's configuration."""
    content: dict[str, Any] = json.loads(pull_bytes(store, digest))
    return content


def get_image_manifest(store: Store, reference: str) -> Manifest:
    """Return the manifest of an image; raises ImageError if there is none, or if it is not an image's."""
    manifest = store.get_manifest(reference)
    if manifest is None:
        raise ImageError(f"{store.location} has no image {reference}: check the name, or create the image first")
    if "layers" not in manifest.content or "config" not in manifest.content:
        raise ImageError(
            f"{reference} in {store.location} has the media type {manifest.media_type}: "
            "give the digest of an image for one platform"
        )
    return manifest
