"""Where images are kept: a repository of a registry or a folder on disk, behind one interface."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from images.errors import ImageError
from images.io.progress import Progress
from images.io.retry import retried

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LARGEST_DOCUMENT = 4 << 20
"""Bytes of a manifest or configuration; registries take no larger ones."""


@dataclass(frozen=True)
class Manifest:
    """A manifest as it is stored, byte for byte."""

    body: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Its digest ("sha256:…")."""
        return digest_of(self.body)

    @property
    def content(self) -> dict[str, Any]:
        """Its content."""
        content: dict[str, Any] = json.loads(self.body)
        return content


class Store(Protocol):
    """One repository. Every method raises ImageError, or TransientError where trying again may help."""

    place: str
    """What errors call it."""
    sent: int
    """Bytes of blobs and manifests written so far."""

    def size(self, digest: str) -> int | None:
        """Return the size of a blob, or None where it is not there."""

    def write(self, digest: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Store a blob from the pieces that `content` yields; what it raises is passed on, and nothing is stored."""

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield a blob's pieces, and raise ImageError before the last one where they do not have that digest."""

    def borrow(self, digest: str, size: int, source: "Store") -> bool:
        """Take a blob from another store without moving its bytes, and tell whether that could be done."""

    def manifest(self, reference: str) -> Manifest | None:
        """Return what a tag or digest stands for, or None where there is none."""

    def tag(self, reference: str, manifest: Manifest) -> None:
        """Store a manifest under a tag, or under its digest."""

    def attach(self, manifest: Manifest) -> None:
        """Store a manifest that has a subject, so that it is among the subject's referrers."""

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Return the descriptors of the manifests whose subject is the manifest with that digest."""


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put(store: Store, content: bytes) -> str:
    """Store a small blob where it is missing, and return its digest."""
    digest = digest_of(content)
    if store.size(digest) is None:
        retried(lambda: store.write(digest, len(content), lambda: iter([content])), Progress.say)
    return digest


def document(store: Store, digest: str) -> bytes:
    """Return a small blob whole."""

    def once() -> bytes:
        body = b""
        for piece in store.read(digest):
            body += piece
            if len(body) > LARGEST_DOCUMENT:
                raise ImageError(f"{digest} in {store.place} is larger than a document may be")
        return body

    return retried(once, Progress.say)


def get(store: Store, digest: str) -> dict[str, Any]:
    """Return what is in a document, such as an image's configuration."""
    content: dict[str, Any] = json.loads(document(store, digest))
    return content


def descriptor(manifest: Manifest) -> dict[str, Any]:
    """Return how a list of referrers names a manifest."""
    content = manifest.content
    found = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.body)}
    return found | {key: content[key] for key in ("artifactType", "annotations") if key in content}


def require(store: Store, reference: str) -> Manifest:
    """Return the manifest of an image; raises ImageError where there is none, or it is no image's."""
    manifest = store.manifest(reference)
    if manifest is None:
        raise ImageError(f"{store.place} has no image {reference}: check the name, or make it first")
    if "layers" not in manifest.content or "config" not in manifest.content:
        raise ImageError(
            f"{reference} in {store.place} is of the type {manifest.media_type}, and an image for one platform is "
            "needed: name the digest of that one"
        )
    return manifest


def dump(content: dict[str, Any]) -> bytes:
    """Return a document's bytes, the same for the same content."""
    return json.dumps(content, indent=2, sort_keys=True).encode()
