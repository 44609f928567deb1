"""A new version of the server, as a release makes it: the same image with other files in its last layer."""

from pathlib import Path

from images.oci.reference import Reference
from images.oci.store import Manifest, digest_of, dump, get, put, require
from images.runtime import build as runtime
from tools.harness.images import archive

ROOT = Path(__file__).parents[2]


def layer(added: dict[str, bytes]) -> bytes:
    """Return the layer that holds the server, with more files in it, as the Dockerfile's COPY makes it."""
    app = [path for path in sorted((ROOT / "app").rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in app} | added
    return archive({f"srv/{name}": content for name, content in files.items()})


def release(source: Reference, target: Reference, added: dict[str, bytes]) -> None:
    """Write a runtime image with another server to `target`, whose store holds the other layers of `source` already."""
    manifest = require(source.store, source.tag).content
    config = get(source.store, manifest["config"]["digest"])
    content = layer(added)
    config["rootfs"]["diff_ids"][-1] = digest_of(content)
    config["config"].setdefault("Labels", {})["phi3.inputs"] = runtime.key(None)
    kept = manifest["layers"][:-1]
    top = manifest["layers"][-1] | {"digest": put(target.store, content), "size": len(content)}
    body = dump(config)
    configuration = manifest["config"] | {"digest": put(target.store, body), "size": len(body)}
    new = dump(manifest | {"layers": [*kept, top], "config": configuration})
    target.store.tag(target.tag, Manifest(new, manifest["mediaType"]))
