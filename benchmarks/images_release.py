"""The cost of a new version of the server, for a registry and for a node that has the previous one."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images.oci.manifest import Manifest, encode_json
from images.oci.reference import Reference, parse_reference
from images.oci.referrers import attach_artifact
from images.oci.store import get_image_manifest, get_json_blob, push_bytes
from images.runtime.inspect import inspect_runtime
from tools.harness.containerd import Containerd
from tools.harness.images import push_runtime, tar_archive

BASE = 64_000_000
APP = 1_000_000
"""The sizes in bytes of the layers of the server's image; the second layer changes with each version."""


@dataclass
class Pull:
    """What a node spends on the new version: seconds, MB downloaded, and MB of additional disk usage."""

    name: str
    first_seconds: float
    seconds: float
    downloaded: float
    disk: float


def make_runtimes(host: str) -> None:
    """Publish two versions of a server that differ in their last layer."""
    base = tar_archive({"opt/phi3/base": os.urandom(BASE)})
    for tag in ("1", "2"):
        image = parse_reference(f"{host}/runtime:{tag}")
        manifest = push_runtime(image.store, tag, layers=[base, tar_archive({"srv/app": os.urandom(APP)})])
        attach_artifact(image.store, manifest, inspect_runtime(image))


def reorder(image: Reference, target: Reference, above: int) -> None:
    """Publish an image with its first `above` layers, the weights, on top of the others, as a Dockerfile does."""
    manifest = get_image_manifest(image.store, image.tag)
    content, config = manifest.content, get_json_blob(image.store, manifest.content["config"]["digest"])
    diff_ids = config["rootfs"]["diff_ids"]
    config["rootfs"]["diff_ids"] = diff_ids[above:] + diff_ids[:above]
    config["history"] = []
    content["layers"] = content["layers"][above:] + content["layers"][:above]
    body = encode_json(config)
    content["config"] |= {"digest": push_bytes(target.store, body), "size": len(body)}
    target.store.put_manifest(target.tag, Manifest(encode_json(content), manifest.media_type))


def pull(name: str, image: str, size_of: Callable[[Path], int]) -> Pull:
    """Pull version 1 and then version 2 to a node that has neither."""
    with Containerd() as node:
        seconds, content, snapshots = [], [], []
        for tag in ("1", "2"):
            os.sync()
            # The page cache of a busy node no longer holds the first version when the second one arrives.
            Path("/proc/sys/vm/drop_caches").write_text("3")
            begin = time.monotonic()
            node.run("images", "pull", "--plain-http", f"{image}:{tag}")
            os.sync()
            seconds.append(time.monotonic() - begin)
            content.append(size_of(node.directory / "root/io.containerd.content.v1.content"))
            snapshots.append(size_of(node.directory / "root/io.containerd.snapshotter.v1.overlayfs"))
        downloaded, disk = content[1] - content[0], snapshots[1] - snapshots[0]
        return Pull(name, seconds[0], seconds[1], downloaded / 1e6, disk / 1e6)


def table(pulls: list[Pull]) -> str:
    """Return the table of the pulls."""
    lines = [
        "A node (containerd) has the image of one version and pulls the next, whose last layer, of 1 MB, has changed. "
        'A Dockerfile leads to the order "runtime first", with the same layers.',
        "",
        "| order of layers | first pull, s | new version, s | downloaded, MB | additional disk, MB |",
        "|---|--:|--:|--:|--:|",
    ]
    for one in pulls:
        figures = f"{one.first_seconds:.1f} | {one.seconds:.2f} | {one.downloaded:.1f} | {one.disk:,.1f}"
        lines.append(f"| {one.name} | {figures} |")
    return "\n".join(lines)
