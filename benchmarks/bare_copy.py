"""The minimal copy from a hub to a registry: two SHA-256s per byte and one PUT per shard.

Usage: python -m benchmarks.bare_copy HUB REGISTRY LOCK CONNECTIONS; LOCK is a lock file with one model.
"""

import hashlib
import http.client
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from checkpoints.files import ModelFile
from images.weights.layer import Layer


def copy_layer(hub: str, registry: str, model: str, entry: dict[str, Any], layer: dict[str, Any]) -> None:
    """Copy one layer."""

    def read(file: ModelFile) -> Iterator[bytes]:
        source = http.client.HTTPConnection(hub)
        source.request("GET", f"/{entry['repository']}/resolve/{entry['revision']}/{file.name}")
        response = source.getresponse()
        buffer = memoryview(bytearray(1 << 20))
        while count := response.readinto(buffer):
            yield bytes(buffer[:count])

    def hashed_blocks() -> Iterator[bytes]:
        first, second = hashlib.sha256(), hashlib.sha256()
        for block in framed:
            first.update(block)
            second.update(block)
            yield block

    # The archive's frame comes from the pipeline; its verification does not.
    archive = Layer(model, tuple(ModelFile(**file) for file in layer["files"]))
    frame = archive.frame()
    framed = (block for part in frame for block in (read(part) if isinstance(part, ModelFile) else iter([part])))
    target = http.client.HTTPConnection(registry)
    target.request("POST", "/v2/bare/blobs/uploads/", headers={"Content-Length": "0"})
    response = target.getresponse()
    response.read()
    location = urlsplit(response.headers["Location"])
    address = f"{location.path}?{location.query}&digest={layer['digest']}"
    target.request("PUT", address, body=hashed_blocks(), headers={"Content-Length": str(layer["size"])})
    response = target.getresponse()
    if response.status != http.client.CREATED:
        sys.exit(f"{response.status} {response.read()!r}")


def main(hub: str, registry: str, lock: str, connections: str) -> None:
    """Copy every layer."""
    [(model, entry)] = json.loads(Path(lock).read_text()).items()
    with ThreadPoolExecutor(int(connections)) as executor:
        list(executor.map(lambda layer: copy_layer(hub, registry, model, entry, layer), entry["layers"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
