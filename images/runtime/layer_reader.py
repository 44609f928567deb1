"""What is in a layer, read as it streams by."""

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from images.errors import ImageError
from images.oci.store import LARGEST_DOCUMENT, LAYER
from images.weights.layer import FOLDER

BLOCK = 1 << 20
SMALL_BLOCK = 1 << 16  # tarfile copies what is left of one after each header
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
"""How a layer removes what lies below: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts."""
KEPT = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?|(usr/lib|etc)/os-release|.+\.dist-info/METADATA")
"""Files that say which packages are installed."""


@dataclass(frozen=True)
class Contents:
    """What a layer holds.

    `diff_id` is the digest of its uncompressed archive, `hidden` its first entry that would hide weights, or "". `kept`
    has the files that say which packages are installed, and `removed` the paths that it takes away from below.
    """

    diff_id: str
    hidden: str
    kept: dict[str, bytes]
    removed: tuple[str, ...]


class _Stream(io.RawIOBase):
    """Pieces as a file, hashed as they are read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._sha256.update(piece)
            self._rest = piece
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def examine(pieces: Iterator[bytes], media_type: str, digest: str) -> Contents:
    """Read a layer to its end; raises ImageError where it is no archive, or compressed in another way than gzip."""
    if media_type not in (LAYER, f"{LAYER}+gzip"):
        raise ImageError(
            f"the layer {digest} has the type {media_type}: {LAYER} and {LAYER}+gzip are known. Build the runtime "
            "with `python -m images runtime`, or with the compression uncompressed or gzip"
        )
    stream = _Stream(_unzipped(pieces) if media_type.endswith("+gzip") else pieces)
    hidden, kept, removed = "", dict[str, bytes](), list[str]()
    try:
        with tarfile.open(fileobj=io.BufferedReader(stream, BLOCK), mode="r|", bufsize=SMALL_BLOCK) as archive:
            for entry in archive:
                archive.members = []  # type: ignore[attr-defined] # else all would be kept
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                hidden = hidden or (entry.name if _hides(parts) else "")
                path = "/".join(parts)
                folder, _, name = path.rpartition("/")
                if name == OPAQUE:
                    removed.append(folder)
                elif name.startswith(WHITEOUT):
                    removed.append(f"{folder}/{name.removeprefix(WHITEOUT)}".removeprefix("/"))
                elif KEPT.fullmatch(path) and entry.isfile() and (content := archive.extractfile(entry)):
                    if entry.size > LARGEST_DOCUMENT:
                        raise ImageError(f"{entry.name} in the layer {digest} is larger than a list of packages may be")
                    kept[path] = content.read()
        while stream.read(BLOCK):  # what follows the archive's end counts for its digest
            pass
    except (tarfile.TarError, zlib.error) as error:
        raise ImageError(f"the layer {digest} is no sound archive ({error}): build the runtime again") from error
    return Contents(stream.digest(), hidden, kept, tuple(removed))


def _hides(parts: list[str]) -> bool:
    return bool(parts) and (parts[0] in (FOLDER, f"{WHITEOUT}{FOLDER}", OPAQUE))


def _unzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Undo gzip, with no more in memory than a piece makes at most 1 MiB at a time."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for piece in pieces:
        rest = piece
        while rest:
            yield inflater.decompress(rest, BLOCK)
            rest = inflater.unconsumed_tail
            if inflater.eof:
                rest = inflater.unused_data
                inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)  # a stream can have several members
    yield inflater.flush()
