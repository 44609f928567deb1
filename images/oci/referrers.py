"""Documents that are attached to an image: found by its digest, and left behind by copies that do not ask for them.

Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
"""

from images.errors import ImageError
from images.oci.store import MANIFEST, Manifest, Store, digest_of, dump, put, require
from images.oci.store import document as content_of

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"


def attach(
    store: Store, subject: Manifest, media_type: str, title: str, document: bytes, source: Store | None = None
) -> None:
    """Attach a document to an image, unless it is there already; `source` is a store that may have it."""
    digest = digest_of(document)
    if source and store.size(digest) is None:
        store.borrow(digest, len(document), source)
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": media_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": put(store, b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": media_type,
                "digest": put(store, document),
                "size": len(document),
                "annotations": {TITLE: title},
            }
        ],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.body)},
        "annotations": {TITLE: title},
    }
    manifest = Manifest(dump(content), MANIFEST)
    if manifest.digest not in {one["digest"] for one in store.referrers(subject.digest)}:
        store.attach(manifest)


def attached(store: Store, subject: str, media_type: str, title: str) -> bytes | None:
    """Return the document of a type and title that is attached to the image with a digest, or None."""
    for one in store.referrers(subject):
        if one.get("artifactType") == media_type and one.get("annotations", {}).get(TITLE) == title:
            layers = require(store, one["digest"]).content["layers"]
            if len(layers) != 1:
                raise ImageError(f"{title} of {subject} in {store.place} is not one document: attach it again")
            return content_of(store, layers[0]["digest"])
    return None
