"""Streams weights from a source into a store: every byte is hashed twice, and none touches this machine's disk."""

from images.errors import ImageError
from images.io.parallel import CONNECTIONS, Cancellation, parallel_map
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.oci.digest import verify_digest
from images.oci.manifest import CONFIG, MANIFEST, Manifest, encode_json
from images.oci.referrers import attach_artifact
from images.oci.store import Store, push_bytes
from images.weights.lock import LockedLayer, LockEntry
from images.weights.manifest import annotations, history, layer_descriptors, missing_layers
from images.weights.sbom import weights_sbom
from images.weights.source import Source


def push_weights(entry: LockEntry, source: Source, store: Store, connections: int = CONNECTIONS) -> None:
    """Push the layers of a model that the store lacks, and tag them as an image that holds only the weights.

    Raises ImageError if a file does not match the lock file. That layer is then not stored, and nothing is tagged.
    """
    progress = Progress(entry.model, "sent")

    def push(locked: LockedLayer, cancellation: Cancellation) -> None:
        layer = locked.layer
        if store.stat_blob(locked.digest) == layer.size:
            progress.log_line(f"{entry.model}: {store.location} already has {layer.name}")
            return

        def attempt() -> None:
            with progress.part(layer.name, layer.size) as add:
                content = layer.stream(source.read, source.location)
                blocks = verify_digest(content, locked.digest, f"the layer of {layer.name}")
                store.push_blob(locked.digest, layer.size, lambda: cancellation.guard(blocks, add))

        retry_transient(attempt, progress.log_line)

    parallel_map(push, entry.layers, connections)
    _tag_weights(entry, store)


def _tag_weights(entry: LockEntry, store: Store) -> None:
    """Tag the layers, which protects them from a registry's garbage collection until an image uses them."""
    missing = missing_layers(entry, store)
    if missing:
        raise ImageError(f"{store.location} has lost {', '.join(missing)} after the upload: run this again")
    config = encode_json(
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
        "config": {"mediaType": CONFIG, "digest": push_bytes(store, config), "size": len(config)},
        "layers": layer_descriptors(entry),
        "annotations": annotations(entry),
    }
    manifest = Manifest(encode_json(content), MANIFEST)
    if store.get_manifest(entry.tag) != manifest:
        store.put_manifest(entry.tag, manifest)
    attach_artifact(store, manifest, weights_sbom(entry))
