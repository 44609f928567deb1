"""Blobs brought from one store into another."""

from collections.abc import Sequence
from typing import Any

from images.io.parallel import Stop, each
from images.io.progress import Progress
from images.io.retry import retried
from images.oci.store import Store
from images.weights.push import CONNECTIONS


def transfer(blobs: Sequence[dict[str, Any]], source: Store, target: Store, progress: Progress) -> None:
    """Bring the blobs with these descriptors into `target` where they are missing, several at once."""

    def bring(blob: dict[str, Any], stop: Stop) -> None:
        digest, size = blob["digest"], blob["size"]

        def once() -> None:
            if target.size(digest) != size and not target.borrow(digest, size, source):
                with progress.part(digest[:19], size) as add:
                    target.write(digest, size, lambda: stop.through(source.read(digest), add))

        retried(once, progress.say)

    each(bring, blobs, CONNECTIONS)
