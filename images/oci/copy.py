"""Copies blobs and images from one store to another."""

from collections.abc import Sequence
from typing import Any

from images.io.parallel import CONNECTIONS, Cancellation, parallel_map
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.oci.reference import Reference
from images.oci.store import Store, get_image_manifest


def copy_blobs(blobs: Sequence[dict[str, Any]], source: Store, target: Store, progress: Progress) -> None:
    """Copy the blobs with these descriptors to `target`, unless it has them already, several at once."""

    def copy(blob: dict[str, Any], cancellation: Cancellation) -> None:
        digest, size = blob["digest"], blob["size"]

        def attempt() -> None:
            if target.stat_blob(digest) != size and not target.mount_blob(digest, size, source):
                with progress.part(digest[:19], size) as add:
                    target.push_blob(digest, size, lambda: cancellation.guard(source.pull_blob(digest), add))

        retry_transient(attempt, progress.log_line)

    parallel_map(copy, blobs, CONNECTIONS)


def copy_image(source: Reference, target: Reference, progress: Progress) -> None:
    """Copy an image and tag it; blobs that the target has are not sent again."""
    manifest = get_image_manifest(source.store, source.tag)
    blobs = [manifest.content["config"], *manifest.content["layers"]]
    copy_blobs(blobs, source.store, target.store, progress)
    target.store.put_manifest(target.tag, manifest)
