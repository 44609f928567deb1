"""A new version of the server: what it costs to publish, and what it costs a node that has the old one."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import sbom as bom
from images.oci import reference
from images.oci.reference import Reference
from images.oci.referrers import attach
from images.oci.store import Manifest, dump, get, put, require
from images.runtime.inspect import describe
from tools.harness.containerd import Containerd
from tools.harness.images import archive, runtime

BASE = 64_000_000
APP = 1_000_000
"""Bytes of the layers of the server's image; the second changes with each version."""


@dataclass
class Pull:
    """What a node spends on the new version: seconds, and MB that it fetches and that its disk takes more."""

    name: str
    first_seconds: float
    seconds: float
    fetched: float
    disk: float


def make_runtimes(host: str) -> None:
    """Publish two versions of a server that differ in their last layer."""
    base = archive({"opt/phi3/base": os.urandom(BASE)})
    for tag in ("1", "2"):
        image = reference.parse(f"{host}/runtime:{tag}")
        manifest = runtime(image.store, tag, layers=[base, archive({"srv/app": os.urandom(APP)})])
        attach(image.store, manifest, bom.MEDIA_TYPE, bom.RUNTIME, describe(image))


def reorder(image: Reference, target: Reference, above: int) -> None:
    """Publish an image with its first `above` layers, the weights, on top of the others, as a Dockerfile has them."""
    manifest = require(image.store, image.tag)
    content, config = manifest.content, get(image.store, manifest.content["config"]["digest"])
    diff_ids = config["rootfs"]["diff_ids"]
    config["rootfs"]["diff_ids"] = diff_ids[above:] + diff_ids[:above]
    config["history"] = []
    content["layers"] = content["layers"][above:] + content["layers"][:above]
    body = dump(config)
    content["config"] |= {"digest": put(target.store, body), "size": len(body)}
    target.store.tag(target.tag, Manifest(dump(content), manifest.media_type))


def pull(name: str, image: str, size_of: Callable[[Path], int]) -> Pull:
    """Pull version 1, then version 2, to a node that had neither."""
    with Containerd() as node:
        seconds, content, snapshots = [], [], []
        for tag in ("1", "2"):
            os.sync()
            # Nothing of the first is in memory when the second begins, as on a node that has worked meanwhile.
            Path("/proc/sys/vm/drop_caches").write_text("3")
            begin = time.monotonic()
            node.run("images", "pull", "--plain-http", f"{image}:{tag}")
            os.sync()
            seconds.append(time.monotonic() - begin)
            content.append(size_of(node.folder / "root/io.containerd.content.v1.content"))
            snapshots.append(size_of(node.folder / "root/io.containerd.snapshotter.v1.overlayfs"))
        fetched, disk = content[1] - content[0], snapshots[1] - snapshots[0]
        return Pull(name, seconds[0], seconds[1], fetched / 1e6, disk / 1e6)


def table(pulls: list[Pull]) -> str:
    """Return the part of the section on nodes."""
    lines = [
        "A node (containerd) that has the image of one version and pulls the next, whose last layer, of 1 MB, is "
        "another. Runtime first is the order that a Dockerfile has, of the same layers.",
        "",
        "| layers | first pull, s | new version, s | fetched, MB | disk more, MB |",
        "|---|--:|--:|--:|--:|",
    ]
    for one in pulls:
        figures = f"{one.first_seconds:.1f} | {one.seconds:.2f} | {one.fetched:.1f} | {one.disk:,.1f}"
        lines.append(f"| {one.name} | {figures} |")
    return "\n".join(lines)
