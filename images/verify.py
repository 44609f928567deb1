"""Verifies a published image against the lock file, without pulling it."""

import sys
from pathlib import Path
from typing import Any

from checkpoints.catalogue import get_model
from images.errors import ImageError
from images.oci.digest import digest_of
from images.oci.manifest import Manifest
from images.oci.reference import Reference
from images.oci.referrers import get_artifact
from images.oci.store import Store, get_image_manifest, get_json_blob
from images.paths import model_path
from images.sbom import SBOM_TYPE, WEIGHTS_SBOM
from images.weights.lock import LockEntry, read_entry
from images.weights.sbom import file_hashes


def verify_image(reference: Reference, lock_path: Path) -> tuple[str, Manifest]:
    """Return the model in an image and the image's manifest, if every layer of weights matches the lock file.

    This verifies the digests of manifest and configuration, the digest and size of each layer of weights, that the
    store has every layer, the settings that start the server, and the SBOM of the weights.

    Raises ImageError, which lists all problems, or ModelError if the image's model is not in the catalogue.
    """
    manifest = get_image_manifest(reference.store, reference.tag)
    if reference.tag.startswith("sha256:") and manifest.digest != reference.tag:
        raise ImageError(
            f"{reference} has the digest {digest_of(manifest.body)}: do not trust {reference.store.location}"
        )
    config = get_json_blob(reference.store, manifest.content["config"]["digest"])
    settings = config.get("config", {})
    name = settings.get("Labels", {}).get("phi3.model", "")
    if not name:
        raise ImageError(f"{reference} has no label phi3.model: only images made by `scripts/bake` can be verified")
    entry = read_entry(lock_path, get_model(name))
    if entry is None:
        raise ImageError(f"{lock_path} has no entry for {name}: run `scripts/lock {name}`")
    layers, diff_ids = manifest.content["layers"], config.get("rootfs", {}).get("diff_ids", [])
    problems = _find_layer_problems(entry, layers, diff_ids) + _find_storage_problems(reference.store, layers)
    if len(layers) > len(entry.layers):
        problems += _find_setting_problems(name, settings)
    problems += _find_sbom_problems(entry, reference, manifest)
    if problems:
        raise ImageError(f"{reference} does not match the lock entry of {name}: {'; '.join(problems)}")
    return name, manifest


def _find_layer_problems(entry: LockEntry, layers: list[dict[str, Any]], diff_ids: list[str]) -> list[str]:
    """Compare the layers of an image with those of the lock entry."""
    problems = []
    if len(diff_ids) != len(layers):
        problems.append(f"it has {len(layers)} layers and {len(diff_ids)} diff_ids")
    for index, locked in enumerate(entry.layers):
        digest, size = locked.digest, locked.layer.size
        found = (layers[index]["digest"], layers[index]["size"]) if index < len(layers) else ("missing", 0)
        if found != (digest, size):
            problems.append(f"layer {index + 1} is {found[0]}, and {digest} in the lock file for {locked.layer.name}")
        elif diff_ids[index : index + 1] != [locked.digest]:
            problems.append(f"the diff_id of layer {index + 1} is not its digest")
    return problems


def _find_storage_problems(store: Store, layers: list[dict[str, Any]]) -> list[str]:
    """Verify that the store has every layer at its full size."""
    problems = []
    for layer in layers:
        size = store.stat_blob(layer["digest"])
        if size != layer["size"]:
            found = "does not have" if size is None else f"has {size:,} bytes of"
            problems.append(f"{store.location} {found} the layer {layer['digest']} of {layer['size']:,} bytes")
    return problems


def _find_setting_problems(name: str, settings: dict[str, Any]) -> list[str]:
    """Verify how an image with a runtime starts."""
    problems = []
    environment, user = settings.get("Env") or [], str(settings.get("User", "")).split(":")[0]
    variable = f"CHAT_MODEL={model_path(name)}"
    if variable not in environment:
        problems.append(f"it does not set {variable}")
    if not user.isdecimal() or int(user) == 0:
        problems.append(f"its user is {user or 'root'!r} instead of a number other than 0")
    if not settings.get("Entrypoint"):
        problems.append("it has no entry point")
    return problems


def _find_sbom_problems(entry: LockEntry, reference: Reference, manifest: Manifest) -> list[str]:
    """Compare the SBOM of the weights with the lock entry; a missing one is reported on stderr, not as a problem."""
    document = get_artifact(reference.store, manifest.digest, SBOM_TYPE, WEIGHTS_SBOM)
    if document is None:
        print(f"{reference} has no SBOM: a plain copy of an image leaves its SBOMs behind", file=sys.stderr)
        return []
    if file_hashes(document) == {file.name: file.sha256 for file in entry.files}:
        return []
    return ["the SBOM of its weights does not match the lock file"]
