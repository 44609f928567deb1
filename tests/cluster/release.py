"""A new release of the server: the same image with other files in its last layer."""

from pathlib import Path

from images.oci.digest import digest_of
from images.oci.manifest import Manifest, encode_json
from images.oci.reference import Reference
from images.oci.store import get_image_manifest, get_json_blob, push_bytes
from images.runtime.inputs import INPUTS_LABEL, hash_inputs
from tools.harness.images import tar_archive

ROOT = Path(__file__).parents[2]


def app_layer(added: dict[str, bytes]) -> bytes:
    """Return the layer of the Dockerfile's COPY of the server, with more files."""
    app = [path for path in sorted((ROOT / "app").rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in app} | added
    return tar_archive({f"srv/{name}": content for name, content in files.items()})


def push_release(source: Reference, target: Reference, added: dict[str, bytes]) -> None:
    """Push a runtime image with a changed server to `target`, whose store has the other layers of `source`."""
    manifest = get_image_manifest(source.store, source.tag).content
    config = get_json_blob(source.store, manifest["config"]["digest"])
    content = app_layer(added)
    config["rootfs"]["diff_ids"][-1] = digest_of(content)
    config["config"].setdefault("Labels", {})[INPUTS_LABEL] = hash_inputs(None)
    kept = manifest["layers"][:-1]
    top = manifest["layers"][-1] | {"digest": push_bytes(target.store, content), "size": len(content)}
    body = encode_json(config)
    configuration = manifest["config"] | {"digest": push_bytes(target.store, body), "size": len(body)}
    new = encode_json(manifest | {"layers": [*kept, top], "config": configuration})
    target.store.put_manifest(target.tag, Manifest(new, manifest["mediaType"]))
