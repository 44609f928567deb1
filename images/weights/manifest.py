"""The part of a manifest and of an image configuration that describes weights."""

from images.oci.manifest import LAYER
from images.oci.store import Store
from images.weights.lock import LockEntry


def missing_layers(entry: LockEntry, store: Store) -> list[str]:
    """Return the names of the layers that a store lacks."""
    return [locked.layer.name for locked in entry.layers if store.stat_blob(locked.digest) != locked.layer.size]


def layer_descriptors(entry: LockEntry) -> list[dict[str, object]]:
    """Return the descriptors of the layers."""
    return [
        {
            "mediaType": LAYER,
            "digest": locked.digest,
            "size": locked.layer.size,
            "annotations": {
                "org.opencontainers.image.title": locked.layer.name,
                **({"org.cncf.model.filepath": locked.layer.name} if len(locked.layer.files) == 1 else {}),
            },
        }
        for locked in entry.layers
    ]


def annotations(entry: LockEntry) -> dict[str, str]:
    """Return the annotations of a manifest, which are also the labels of a configuration."""
    found = {
        "org.opencontainers.image.licenses": entry.licence,
        "phi3.model": entry.model,
        "phi3.weights.revision": entry.revision,
    }
    return found | ({"phi3.weights.repository": entry.repository} if entry.repository else {})


def history(entry: LockEntry) -> list[dict[str, str]]:
    """Return the history of the layers for a configuration."""
    origin = f"{entry.repository or 'a directory'} at {entry.revision}"
    return [{"created_by": f"{locked.layer.name} of {origin}"} for locked in entry.layers]
