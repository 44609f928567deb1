"""Weights on their way from a source into a store: every byte hashed twice, none of them on this machine's disk."""

from images import sbom as bom
from images.errors import ImageError
from images.io.parallel import Stop, each
from images.io.progress import Progress
from images.io.retry import retried
from images.oci.referrers import attach
from images.oci.store import CONFIG, LAYER, MANIFEST, Manifest, Store, dump, put
from images.weights.layer import digested
from images.weights.lock import Entry, LockedLayer
from images.weights.source import Source

CONNECTIONS = 3


def push(entry: Entry, source: Source, store: Store, connections: int = CONNECTIONS) -> None:
    """Bring a model's layers into a store, those that are missing, and tag them as an image of weights alone.

    Raises ImageError where a file is not what the lock says. Then that layer is not stored, and nothing is tagged.
    """
    progress = Progress(entry.model, "sent")

    def send(locked: LockedLayer, stop: Stop) -> None:
        layer = locked.layer
        if store.size(locked.digest) == layer.size:
            progress.say(f"{entry.model}: {layer.name} is in {store.place} already")
            return

        def once() -> None:
            with progress.part(layer.name, layer.size) as add:
                pieces = digested(layer.stream(source.read, source.place), locked.digest, f"the layer of {layer.name}")
                store.write(locked.digest, layer.size, lambda: stop.through(pieces, add))

        retried(once, progress.say)

    each(send, entry.layers, connections)
    _tag(entry, store)


def missing(entry: Entry, store: Store) -> list[str]:
    """Return the names of the layers that a store lacks."""
    return [locked.layer.name for locked in entry.layers if store.size(locked.digest) != locked.layer.size]


def descriptors(entry: Entry) -> list[dict[str, object]]:
    """Return how a manifest lists the layers."""
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


def annotations(entry: Entry) -> dict[str, str]:
    """Return what a manifest says of the weights in the image."""
    found = {
        "org.opencontainers.image.licenses": entry.licence,
        "phi3.model": entry.model,
        "phi3.weights.revision": entry.revision,
    }
    return found | ({"phi3.weights.repository": entry.repository} if entry.repository else {})


def history(entry: Entry) -> list[dict[str, str]]:
    """Return how a configuration says where the layers come from."""
    origin = f"{entry.repository or 'a folder'} at {entry.revision}"
    return [{"created_by": f"{locked.layer.name} of {origin}"} for locked in entry.layers]


def _tag(entry: Entry, store: Store) -> None:
    """Name the weights, which keeps a registry from collecting them as garbage before an image holds them."""
    lacking = missing(entry, store)
    if lacking:
        raise ImageError(f"{store.place} has lost {', '.join(lacking)} again: run this once more")
    config = dump(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": annotations(entry)},
            "rootfs": {"type": "layers", "diff_ids": [locked.digest for locked in entry.layers]},
            "history": history(entry),
        }
    )
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": put(store, config), "size": len(config)},
        "layers": descriptors(entry),
        "annotations": annotations(entry),
    }
    manifest = Manifest(dump(content), MANIFEST)
    if store.manifest(entry.tag) != manifest:
        store.tag(entry.tag, manifest)
    attach(store, manifest, bom.MEDIA_TYPE, bom.WEIGHTS, bom.of_weights(entry))
