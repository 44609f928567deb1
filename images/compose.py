"""Composes an image by manifest alone: the layers of the weights first, and those of the runtime on top.

A node stores a layer under the chain of layers below it, so with this order a new runtime leaves its weights in place.
"""

from typing import Any

from images import VERSION
from images.errors import ImageError
from images.io.progress import Progress
from images.oci.copy import copy_blobs
from images.oci.manifest import CONFIG, MANIFEST, Manifest, encode_json
from images.oci.reference import Reference
from images.oci.referrers import attach_artifact
from images.oci.store import get_image_manifest, get_json_blob, push_bytes
from images.paths import model_path
from images.runtime.inspect import inspect_runtime
from images.weights.lock import LockEntry
from images.weights.manifest import annotations, history, layer_descriptors, missing_layers
from images.weights.sbom import weights_sbom


def compose_image(entry: LockEntry, runtime: Reference, target: Reference) -> Manifest:
    """Combine weights, which `target`'s store has, and a runtime under `target`'s tag, and return the manifest.

    The SBOMs of both are attached to the image.

    Raises ImageError, and tags nothing, if weights are missing, if the runtime hides them, or if the runtime does not
    match its own configuration.
    """
    missing = missing_layers(entry, target.store)
    if missing:
        raise ImageError(
            f"{target.store.location} lacks {', '.join(missing)}: run `python -m images weights {entry.model} …` first"
        )
    source = get_image_manifest(runtime.store, runtime.tag)
    runtime_config = get_json_blob(runtime.store, source.content["config"]["digest"])
    runtime_sbom = inspect_runtime(runtime)
    copy_blobs(source.oci_layers, runtime.store, target.store, Progress(entry.model, "copied"))
    config = encode_json(_merge_config(entry, runtime_config))
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": push_bytes(target.store, config), "size": len(config)},
        "layers": [*layer_descriptors(entry), *source.oci_layers],
        "annotations": annotations(entry)
        | {
            "org.opencontainers.image.title": f"phi3 {entry.model}",
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.base.digest": source.digest,
        },
    }
    manifest = Manifest(encode_json(content), MANIFEST)
    target.store.put_manifest(target.tag, manifest)
    attach_artifact(target.store, manifest, runtime_sbom, mount_from=runtime.store)
    attach_artifact(target.store, manifest, weights_sbom(entry))
    return manifest


def _merge_config(entry: LockEntry, runtime: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime's configuration with the weights below it, and with the settings that point to them."""
    settings = dict(runtime.get("config", {}))
    variables = {"CHAT_MODEL": model_path(entry.model), "CHAT_NAME": entry.model}
    others = [variable for variable in settings.get("Env", []) if variable.split("=")[0] not in variables]
    settings["Env"] = [*others, *(f"{name}={value}" for name, value in variables.items())]
    settings["Labels"] = settings.get("Labels", {}) | annotations(entry)
    weights = [locked.digest for locked in entry.layers]
    return runtime | {
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*weights, *runtime["rootfs"]["diff_ids"]]},
        "history": [*history(entry), *runtime.get("history", [])],
    }
