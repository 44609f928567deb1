"""Reads a layer as a stream, and collects its package metadata, its whiteouts, and entries that would hide weights."""

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from images.errors import ImageError
from images.oci.manifest import LAYER
from images.oci.store import MAX_DOCUMENT_BYTES
from images.paths import MODELS_DIRECTORY

BLOCK_BYTES = 1 << 20
TAR_BUFFER_BYTES = 1 << 16
"""Small, because tarfile copies the rest of its buffer after each header."""
WHITEOUT = ".wh."
OPAQUE_WHITEOUT = ".wh..wh..opq"
"""How a layer removes files of lower layers.

Source: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
"""
PACKAGE_METADATA = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?|(usr/lib|etc)/os-release|.+\.dist-info/METADATA")
"""The files that list installed packages."""


@dataclass(frozen=True)
class LayerContents:
    """The contents of a layer that matter to an image of a model.

    `diff_id` is the digest of the uncompressed archive. `hides_models` is the first entry that would hide weights, or
    "". `package_metadata` holds the files that list installed packages, and `removed` the paths that the layer removes
    from lower layers.
    """

    diff_id: str
    hides_models: str
    package_metadata: dict[str, bytes]
    removed: tuple[str, ...]


class _HashingStream(io.RawIOBase):
    """Blocks as a file object that hashes them as they are read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._sha256.update(block)
            self._rest = block
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def scan_layer(blocks: Iterator[bytes], media_type: str, digest: str) -> LayerContents:
    """Read a layer to its end.

    Raises ImageError if it is not a tar archive, or if its compression is not gzip.
    """
    if media_type not in (LAYER, f"{LAYER}+gzip"):
        raise ImageError(
            f"the layer {digest} has the media type {media_type}; {LAYER} and {LAYER}+gzip are supported. Build the "
            "runtime with `python -m images runtime`, or without compression or with gzip"
        )
    stream = _HashingStream(_decompress(blocks) if media_type.endswith("+gzip") else blocks)
    hides_models, package_metadata, removed = "", dict[str, bytes](), list[str]()
    try:
        with tarfile.open(
            fileobj=io.BufferedReader(stream, BLOCK_BYTES), mode="r|", bufsize=TAR_BUFFER_BYTES
        ) as archive:
            for entry in archive:
                archive.members = []  # type: ignore[attr-defined] # tarfile would keep all entries in memory
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                hides_models = hides_models or (entry.name if _hides_models(parts) else "")
                path = "/".join(parts)
                directory, _, name = path.rpartition("/")
                if name == OPAQUE_WHITEOUT:
                    removed.append(directory)
                elif name.startswith(WHITEOUT):
                    removed.append(f"{directory}/{name.removeprefix(WHITEOUT)}".removeprefix("/"))
                elif PACKAGE_METADATA.fullmatch(path) and entry.isfile() and (content := archive.extractfile(entry)):
                    if entry.size > MAX_DOCUMENT_BYTES:
                        raise ImageError(
                            f"{entry.name} in the layer {digest} exceeds the limit of {MAX_DOCUMENT_BYTES:,} bytes for "
                            "a list of packages"
                        )
                    package_metadata[path] = content.read()
        while stream.read(BLOCK_BYTES):  # the digest covers the bytes after the archive's end, too
            pass
    except (tarfile.TarError, zlib.error) as error:
        raise ImageError(f"the layer {digest} is not a valid archive ({error}): build the runtime again") from error
    return LayerContents(stream.digest(), hides_models, package_metadata, tuple(removed))


def _hides_models(parts: list[str]) -> bool:
    return bool(parts) and parts[0] in (MODELS_DIRECTORY, f"{WHITEOUT}{MODELS_DIRECTORY}", OPAQUE_WHITEOUT)


def _decompress(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip, at most BLOCK_BYTES at a time."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for block in blocks:
        rest = block
        while rest:
            yield decompressor.decompress(rest, BLOCK_BYTES)
            rest = decompressor.unconsumed_tail
            if decompressor.eof:
                rest = decompressor.unused_data
                decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)  # a stream can have several members
    yield decompressor.flush()
