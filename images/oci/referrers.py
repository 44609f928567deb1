"""Artifacts attached to an image, found by the image's digest; a plain copy of the image leaves them behind.

Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
"""

from dataclasses import dataclass

from images.errors import ImageError
from images.oci.digest import digest_of
from images.oci.manifest import MANIFEST, Manifest, encode_json
from images.oci.store import Store, get_image_manifest, pull_bytes, push_bytes

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True)
class Artifact:
    """A document to attach to an image; `title` tells it from others of the same media type."""

    media_type: str
    title: str
    content: bytes


def attach_artifact(store: Store, subject: Manifest, artifact: Artifact, mount_from: Store | None = None) -> None:
    """Attach an artifact to an image, unless it is attached already; `mount_from` is a store that may hold its blob."""
    digest = digest_of(artifact.content)
    if mount_from and store.stat_blob(digest) is None:
        store.mount_blob(digest, len(artifact.content), mount_from)
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact.media_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": push_bytes(store, EMPTY), "size": len(EMPTY)},
        "layers": [
            {
                "mediaType": artifact.media_type,
                "digest": push_bytes(store, artifact.content),
                "size": len(artifact.content),
                "annotations": {TITLE: artifact.title},
            }
        ],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.body)},
        "annotations": {TITLE: artifact.title},
    }
    manifest = Manifest(encode_json(content), MANIFEST)
    if manifest.digest not in {referrer["digest"] for referrer in store.list_referrers(subject.digest)}:
        store.put_referrer(manifest)


def get_artifact(store: Store, subject: str, media_type: str, title: str) -> bytes | None:
    """Return the content of an artifact attached to the image with digest `subject`, or None if there is none."""
    for referrer in store.list_referrers(subject):
        if referrer.get("artifactType") == media_type and referrer.get("annotations", {}).get(TITLE) == title:
            layers = get_image_manifest(store, referrer["digest"]).content["layers"]
            if len(layers) != 1:
                raise ImageError(
                    f"{title} of {subject} in {store.location} has {len(layers)} blobs instead of 1: attach it again"
                )
            return pull_bytes(store, layers[0]["digest"])
    return None
