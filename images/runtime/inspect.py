"""Inspects a runtime image layer by layer: lists its packages, and verifies that nothing in it hides weights."""

from typing import Any

from images.errors import ImageError
from images.io.parallel import CONNECTIONS, Cancellation, parallel_map
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.oci.reference import Reference
from images.oci.referrers import Artifact, get_artifact
from images.oci.store import get_image_manifest, get_json_blob
from images.paths import MODELS_DIRECTORY
from images.runtime.inventory import list_packages
from images.runtime.layer_reader import LayerContents, scan_layer
from images.runtime.sbom import runtime_sbom
from images.sbom import RUNTIME_SBOM, SBOM_TYPE


def inspect_runtime(runtime: Reference) -> Artifact:
    """Return the SBOM of a runtime: the attached one, or a new one, for which every layer is read.

    Raises ImageError if a layer does not match the image's configuration or would hide weights. A runtime with an
    attached SBOM has passed these checks before.
    """
    manifest = get_image_manifest(runtime.store, runtime.tag)
    config = get_json_blob(runtime.store, manifest.content["config"]["digest"])
    layers, diff_ids = manifest.oci_layers, config.get("rootfs", {}).get("diff_ids", [])
    if len(diff_ids) != len(layers):
        raise ImageError(f"{runtime} has {len(layers)} layers and {len(diff_ids)} diff_ids: build it again")
    attached = get_artifact(runtime.store, manifest.digest, SBOM_TYPE, RUNTIME_SBOM)
    if attached is not None:
        return Artifact(SBOM_TYPE, RUNTIME_SBOM, attached)
    contents = _scan_layers(runtime, layers)
    for layer, diff_id, content in zip(layers, diff_ids, contents, strict=True):
        if content.diff_id != diff_id:
            raise ImageError(
                f"the layer {layer['digest']} of {runtime} is not the {diff_id} of its configuration: build it again"
            )
        if content.hides_models:
            raise ImageError(
                f"{runtime} has {content.hides_models}, which would hide or change the weights in /{MODELS_DIRECTORY}: "
                f"build the runtime without /{MODELS_DIRECTORY}"
            )
    settings = config.get("config", {})
    version = (settings.get("Labels") or {}).get("org.opencontainers.image.version", "")
    return runtime_sbom(manifest.digest, version, list_packages(contents, settings.get("Env") or []))


def _scan_layers(runtime: Reference, layers: list[dict[str, Any]]) -> list[LayerContents]:
    """Read all layers, several at once."""
    progress = Progress("runtime", "inspected")

    def scan(layer: dict[str, Any], cancellation: Cancellation) -> LayerContents:
        digest, size = layer["digest"], layer["size"]

        def attempt() -> LayerContents:
            with progress.part(digest[:19], size) as add:
                blocks = cancellation.guard(runtime.store.pull_blob(digest), add)
                return scan_layer(blocks, layer["mediaType"], digest)

        return retry_transient(attempt, progress.log_line)

    return parallel_map(scan, layers, CONNECTIONS)
