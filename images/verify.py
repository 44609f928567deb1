"""A published image held against the lock, without pulling it."""

import sys
from pathlib import Path

from images import sbom as bom
from images.catalogue import find
from images.errors import ImageError
from images.oci.reference import Reference
from images.oci.referrers import attached
from images.oci.store import Manifest, digest_of, get, require
from images.weights import lock
from images.weights.layer import FOLDER


def verify(reference: Reference, path: Path) -> tuple[str, Manifest]:
    """Return the model in an image, and the image's manifest, once every layer of weights is the lock's.

    Manifest and configuration are held against their digests, and each layer's digest and size against the lock; the
    store must have every layer. Raises ImageError, which lists what is wrong.
    """
    manifest = require(reference.store, reference.tag)
    if reference.tag.startswith("sha256:") and manifest.digest != reference.tag:
        raise ImageError(f"{reference} is {digest_of(manifest.body)}: do not trust {reference.store.place}")
    content = manifest.content
    config = get(reference.store, content["config"]["digest"])
    settings = config.get("config", {})
    name = settings.get("Labels", {}).get("phi3.model", "")
    if not name:
        raise ImageError(f"{reference} does not name its model (label phi3.model): `scripts/bake` has not made it")
    entry = lock.find(path, find(name))
    if entry is None:
        raise ImageError(f"{path} has no entry for {name}: run `scripts/lock {name}`")
    problems = []
    layers, diff_ids = content["layers"], config.get("rootfs", {}).get("diff_ids", [])
    if len(diff_ids) != len(layers):
        problems.append(f"it has {len(layers)} layers and {len(diff_ids)} diff_ids")
    for position, locked in enumerate(entry.layers):
        digest, size = locked.digest, locked.layer.size
        found = (layers[position]["digest"], layers[position]["size"]) if position < len(layers) else ("missing", 0)
        if found != (digest, size):
            problems.append(f"layer {position + 1} is {found[0]}, and the lock has {digest} for {locked.layer.name}")
        elif diff_ids[position : position + 1] != [locked.digest]:
            problems.append(f"the diff_id of layer {position + 1} is not its digest")
    for layer in layers:
        present = reference.store.size(layer["digest"])
        if present != layer["size"]:
            has = "does not have" if present is None else f"has {present:,} bytes of"
            problems.append(f"{reference.store.place} {has} the layer {layer['digest']} of {layer['size']:,} bytes")
    if len(layers) > len(entry.layers):
        problems += _settings(name, settings)
    document = attached(reference.store, manifest.digest, bom.MEDIA_TYPE, bom.WEIGHTS)
    if document is None:
        print(f"{reference} has no bill of materials: a copy leaves it behind unless it is asked for", file=sys.stderr)
    elif bom.files(document) != {file.name: file.sha256 for file in entry.files}:
        problems.append("the bill of materials of its weights is not the lock's")
    if problems:
        raise ImageError(f"{reference} is not {name} as locked: {'; '.join(problems)}")
    return name, manifest


def _settings(name: str, settings: dict[str, object]) -> list[str]:
    """Return what is wrong with how an image with a runtime is started."""
    problems = []
    environment, user = settings.get("Env") or [], str(settings.get("User", "")).split(":")[0]
    if f"CHAT_MODEL=/{FOLDER}/{name}" not in environment:  # type: ignore[operator]
        problems.append(f"it does not set CHAT_MODEL=/{FOLDER}/{name}")
    if not user.isdecimal() or int(user) == 0:
        problems.append(f"its user is {user or 'root'!r}, and a number other than 0 is needed")
    if not settings.get("Entrypoint"):
        problems.append("it has no entry point")
    return problems
