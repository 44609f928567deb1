"""Small images, and the complete pipeline on a small model."""

import io
import tarfile
from pathlib import Path

from checkpoints.catalogue import CatalogueModel
from images.compose import compose_image
from images.oci.digest import digest_of
from images.oci.manifest import CONFIG, LAYER, MANIFEST, Manifest, encode_json
from images.oci.reference import parse_reference
from images.oci.store import Store, push_bytes
from images.weights.hub_source import HubSource
from images.weights.lock import LockEntry, lock_model, read_entry, write_entry
from images.weights.push import push_weights


def tar_archive(files: dict[str, bytes]) -> bytes:
    """Return a tar archive of files by name."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as output:
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            output.addfile(entry, io.BytesIO(body))
    return content.getvalue()


def push_runtime(store: Store, tag: str = "1", media_type: str = LAYER, layers: list[bytes] | None = None) -> Manifest:
    """Push a small runtime image, of two layers unless `layers` gives others, and return its manifest."""
    plain = layers or [tar_archive({"opt/base": b"base"}), tar_archive({"srv/app.py": tag.encode()})]
    config = encode_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"User": "65532:65532", "Entrypoint": ["/opt/phi3/bin/python"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in plain]},
            "history": [{"created_by": "test"}] * len(plain),
        }
    )
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": push_bytes(store, config), "size": len(config)},
        "layers": [
            {"mediaType": media_type, "digest": push_bytes(store, layer), "size": len(layer)} for layer in plain
        ],
    }
    manifest = Manifest(encode_json(content), MANIFEST)
    store.put_manifest(tag, manifest)
    return manifest


def lock_from_hub(model: CatalogueModel, path: Path) -> LockEntry:
    """Lock a model from the hub in the lock file `path`, and return its entry."""
    write_entry(path, lock_model(model, HubSource(model), 2))
    entry = read_entry(path, model)
    assert entry
    return entry


def bake_image(model: CatalogueModel, path: Path, destination: str, tag: str = "1") -> str:
    """Lock, push and compose a model, and return the image's digest."""
    entry = lock_from_hub(model, path)
    target = parse_reference(destination)
    push_weights(entry, HubSource(model), target.store)
    base = parse_reference(f"{target.name}-runtime:{tag}")
    push_runtime(base.store, tag)
    return compose_image(entry, base, target).digest
