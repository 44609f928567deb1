"""Small images and whole bakes, for the tests of the pipeline."""

import io
import tarfile
from pathlib import Path

from images.catalogue import Model
from images.compose import compose
from images.oci import reference
from images.oci.store import CONFIG, LAYER, MANIFEST, Manifest, Store, digest_of, dump, put
from images.weights import lock
from images.weights import push as weights
from images.weights.hub import Hub


def archive(files: dict[str, bytes]) -> bytes:
    """A tar archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as output:
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            output.addfile(entry, io.BytesIO(body))
    return content.getvalue()


def runtime(store: Store, tag: str = "1", media_type: str = LAYER, layers: list[bytes] | None = None) -> Manifest:
    """Put a small runtime image into a store."""
    plain = layers or [archive({"opt/base": b"base"}), archive({"srv/app.py": tag.encode()})]
    config = dump(
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
        "config": {"mediaType": CONFIG, "digest": put(store, config), "size": len(config)},
        "layers": [{"mediaType": media_type, "digest": put(store, layer), "size": len(layer)} for layer in plain],
    }
    manifest = Manifest(dump(content), MANIFEST)
    store.tag(tag, manifest)
    return manifest


def locked(model: Model, path: Path) -> lock.Entry:
    """Lock a model from the hub."""
    lock.write(path, lock.make(model, Hub(model), 2))
    entry = lock.find(path, model)
    assert entry
    return entry


def bake(model: Model, path: Path, destination: str, tag: str = "1") -> str:
    """Lock, push, compose, and return the image's digest."""
    entry = locked(model, path)
    target = reference.parse(destination)
    weights.push(entry, Hub(model), target.store)
    base = reference.parse(f"{target.name}-runtime:{tag}")
    runtime(base.store, tag)
    return compose(entry, base, target).digest
