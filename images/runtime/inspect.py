"""Reads a runtime image layer by layer: what is in it, and that nothing in it hides weights."""

from typing import Any

from images import sbom as bom
from images.errors import ImageError
from images.io.parallel import Stop, each
from images.io.progress import Progress
from images.io.retry import retried
from images.oci.reference import Reference
from images.oci.referrers import attached
from images.oci.store import LAYER, Manifest, get, require
from images.runtime.inventory import inventory
from images.runtime.layer_reader import Contents, examine
from images.weights.layer import FOLDER
from images.weights.push import CONNECTIONS

DOCKER_LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
}


def describe(runtime: Reference) -> bytes:
    """Return the bill of materials of a runtime: the one that is attached, or a new one, for which all of it is read.

    Raises ImageError where a layer is not what the image's configuration says, or would hide weights. One that has a
    bill of materials attached was read before.
    """
    manifest = require(runtime.store, runtime.tag)
    config = get(runtime.store, manifest.content["config"]["digest"])
    layers, diff_ids = oci_layers(manifest), config.get("rootfs", {}).get("diff_ids", [])
    if len(diff_ids) != len(layers):
        raise ImageError(f"{runtime} has {len(layers)} layers and {len(diff_ids)} diff_ids: build it again")
    document = attached(runtime.store, manifest.digest, bom.MEDIA_TYPE, bom.RUNTIME)
    if document is not None:
        return document
    progress = Progress("runtime", "examined")

    def read(layer: dict[str, Any], stop: Stop) -> Contents:
        digest, size = layer["digest"], layer["size"]

        def once() -> Contents:
            with progress.part(digest[:19], size) as add:
                return examine(stop.through(runtime.store.read(digest), add), layer["mediaType"], digest)

        return retried(once, progress.say)

    contents = each(read, layers, CONNECTIONS)
    for layer, diff_id, content in zip(layers, diff_ids, contents, strict=True):
        if content.diff_id != diff_id:
            raise ImageError(f"the layer {layer['digest']} of {runtime} is not the {diff_id} of its configuration")
        if content.hidden:
            raise ImageError(
                f"{runtime} has {content.hidden}, which would hide or change the weights in /{FOLDER}: "
                f"build the runtime without /{FOLDER}"
            )
    settings = config.get("config", {})
    version = (settings.get("Labels") or {}).get("org.opencontainers.image.version", "")
    return bom.of_runtime(manifest.digest, version, inventory(contents, settings.get("Env") or []))


def oci_layers(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the layers of an image by the OCI's names for their types, of which Docker has its own."""
    return [
        {
            "mediaType": DOCKER_LAYERS.get(layer["mediaType"], layer["mediaType"]),
            "digest": layer["digest"],
            "size": layer["size"],
        }
        for layer in manifest.content["layers"]
    ]
