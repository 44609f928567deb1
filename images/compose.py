"""An image made of two by manifest alone: layers of weights first, those of the runtime on top.

In this order a new runtime leaves the weights where they are on a node, since a node keeps a layer by the chain of
layers below it.
"""

from typing import Any

from images import VERSION
from images import sbom as bom
from images.errors import ImageError
from images.io.progress import Progress
from images.oci.copy import transfer
from images.oci.reference import Reference
from images.oci.referrers import attach
from images.oci.store import CONFIG, MANIFEST, Manifest, dump, get, put, require
from images.runtime.inspect import describe, oci_layers
from images.weights.layer import FOLDER
from images.weights.lock import Entry
from images.weights.push import annotations, descriptors, history, missing


def compose(entry: Entry, runtime: Reference, target: Reference) -> Manifest:
    """Put weights, which `target`'s store has, and a runtime together under `target`'s tag; returns the manifest.

    The bills of materials of both are attached to it.

    Raises ImageError, and tags nothing, where weights are missing, where the two hide each other's files, or where
    the runtime is not what its own configuration says.
    """
    lacking = missing(entry, target.store)
    if lacking:
        raise ImageError(
            f"{target.store.place} lacks {', '.join(lacking)}: run `python -m images weights {entry.model} …` first"
        )
    source = require(runtime.store, runtime.tag)
    config = get(runtime.store, source.content["config"]["digest"])
    document = describe(runtime)
    layers = oci_layers(source)
    progress = Progress(entry.model, "copied")
    transfer(layers, runtime.store, target.store, progress)
    body = dump(_config(entry, config))
    digest = put(target.store, body)
    composed = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": digest,
            "size": len(body),
        },
        "layers": [*descriptors(entry), *layers],
        "annotations": annotations(entry)
        | {
            "org.opencontainers.image.title": f"phi3 {entry.model}",
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.base.digest": source.digest,
        },
    }
    manifest = Manifest(dump(composed), MANIFEST)
    target.store.tag(target.tag, manifest)
    attach(target.store, manifest, bom.MEDIA_TYPE, bom.RUNTIME, document, runtime.store)
    attach(target.store, manifest, bom.MEDIA_TYPE, bom.WEIGHTS, bom.of_weights(entry))
    return manifest


def _config(entry: Entry, runtime: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime's configuration with the weights below it, and where the server finds them."""
    settings = dict(runtime.get("config", {}))
    ours = {"CHAT_MODEL": f"/{FOLDER}/{entry.model}", "CHAT_NAME": entry.model}
    kept = [value for value in settings.get("Env", []) if value.split("=")[0] not in ours]
    settings["Env"] = [*kept, *(f"{name}={value}" for name, value in ours.items())]
    settings["Labels"] = settings.get("Labels", {}) | annotations(entry)
    weights = [locked.digest for locked in entry.layers]
    return runtime | {
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*weights, *runtime["rootfs"]["diff_ids"]]},
        "history": [*history(entry), *runtime.get("history", [])],
    }
