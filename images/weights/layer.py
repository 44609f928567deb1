"""Layers of weights: uncompressed tar archives that depend on nothing but the files in them.

A layer is headers, bytes of files and zeros, so its digest follows from the files, on any machine, on any day, and
it can be sent while its files arrive. Whatever is wrong with a file is noticed before the layer's last byte is out.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from images.errors import ImageError, TransientError
from images.weights import safetensors
from images.weights.source import WEIGHTS, File

FOLDER = "models"
"""In the image, where a folder of each model's name holds its files."""
BLOCK = 512
END = bytes(2 * BLOCK)


class DamagedError(TransientError):
    """A file is not what its hash says: it may be when it is sent again."""


@dataclass(frozen=True)
class Layer:
    """A layer that holds `files` of the model `model`."""

    model: str
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.files[0].name if len(self.files) == 1 else f"{len(self.files)} small files"

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return sum(part.size if isinstance(part, File) else len(part) for part in self.frame())

    def stream(self, read: Callable[[File], Iterator[bytes]], place: str) -> Iterator[bytes]:
        """Yield the archive, with the bytes that `read` gives for each file.

        Raises DamagedError where a file has another size or hash than it should, or a shard's header is not sound;
        `place` is where the files come from.
        """
        for part in self.frame():
            if isinstance(part, File):
                yield from checked(part, read(part), place)
            else:
                yield part

    def frame(self) -> Iterator[bytes | File]:
        """Yield the archive's headers, zeros and end, and each file where its bytes belong."""
        yield self._folders()
        for file in self.files:
            yield _entry(f"{FOLDER}/{self.model}/{file.name}", tarfile.REGTYPE, 0o644, file.size)
            yield file
            yield bytes(-file.size % BLOCK)
        yield END

    def _folders(self) -> bytes:
        # Without entries for folders, some runtimes make them for root alone.
        return b"".join(_entry(path, tarfile.DIRTYPE, 0o755) for path in (FOLDER, f"{FOLDER}/{self.model}"))


def plan(model: str, files: list[File]) -> list[Layer]:
    """Divide a model's files: a layer for each shard, and a last one for all small files."""
    shards = [Layer(model, (file,)) for file in files if file.name.endswith(WEIGHTS)]
    return [*shards, Layer(model, tuple(file for file in files if not file.name.endswith(WEIGHTS)))]


def checked(file: File, content: Iterator[bytes], place: str) -> Iterator[bytes]:
    """Pass on a file's bytes, and raise DamagedError at their end, at the latest, where they are not the file's."""
    sha256, git_sha1, received = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), 0
    git_sha1.update(b"blob %d\0" % file.size)
    pieces = safetensors.checked(file, content, place) if file.name.endswith(WEIGHTS) else content
    for piece in pieces:
        received += len(piece)
        if received > file.size:
            raise DamagedError(f"{place} sent more than the {file.size:,} bytes that {file.name} should have")
        sha256.update(piece)
        if file.git_sha1:
            git_sha1.update(piece)
        yield piece
    if received < file.size:
        raise DamagedError(f"{place} sent {received:,} of the {file.size:,} bytes of {file.name}")
    for kind, wanted, actual in (("SHA-256", file.sha256, sha256), ("git SHA-1", file.git_sha1, git_sha1)):
        if wanted and wanted != actual.hexdigest():
            raise DamagedError(
                f"{file.name} from {place} is damaged: its {kind} is {actual.hexdigest()} and should be {wanted}. "
                "If that stays so, the source or a proxy on the way alters it"
            )


def digested(pieces: Iterator[bytes], wanted: str, name: str) -> Iterator[bytes]:
    """Pass on a blob's pieces, the last only if the digest of all is `wanted` ("sha256:…"); else raise ImageError."""
    sha256, last = hashlib.sha256(), b""
    for piece in pieces:
        sha256.update(piece)
        if last:
            yield last
        last = piece
    digest = f"sha256:{sha256.hexdigest()}"
    if digest != wanted:
        raise ImageError(f"the digest of {name} is {digest}, and should be {wanted}: nothing was kept of it")
    yield last


def _entry(path: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size = kind, mode, size  # owner, group and times are 0
    return entry.tobuf(tarfile.GNU_FORMAT)  # differs from ustar only from 8 GiB on
