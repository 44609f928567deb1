"""Layers of weights: uncompressed tar archives that depend only on the files in them.

A layer consists of headers, file contents and zeros. Its digest therefore follows from the files, on any machine and at
any time, and the layer can be sent while its files arrive. A damaged file raises before the layer's last byte is sent.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from checkpoints.files import ModelFile, is_weights
from images.errors import TransientError
from images.paths import MODELS_DIRECTORY
from images.weights.safetensors import verify_header

TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)


class DamagedFileError(TransientError):
    """A file does not match its size or hash; a retry may deliver the right one."""


@dataclass(frozen=True)
class Layer:
    """A layer that holds `files` of the model `model`."""

    model: str
    files: tuple[ModelFile, ...]

    @property
    def name(self) -> str:
        """The name of the layer in messages."""
        return self.files[0].name if len(self.files) == 1 else f"{len(self.files)} small files"

    @property
    def size(self) -> int:
        """The size of the archive in bytes."""
        return sum(part.size if isinstance(part, ModelFile) else len(part) for part in self.frame())

    def stream(self, read: Callable[[ModelFile], Iterator[bytes]], location: str) -> Iterator[bytes]:
        """Yield the archive with the bytes that `read` returns for each file; `location` is their origin in messages.

        Raises DamagedFileError if a file has another size or hash, or ImageError if a shard's header is invalid.
        """
        for part in self.frame():
            if isinstance(part, ModelFile):
                yield from verify_file(part, read(part), location)
            else:
                yield part

    def frame(self) -> Iterator[bytes | ModelFile]:
        """Yield the headers, padding and end of the archive, and each file in place of its bytes."""
        # Without entries for directories, some runtimes create them for root only.
        directories = (MODELS_DIRECTORY, f"{MODELS_DIRECTORY}/{self.model}")
        yield b"".join(_tar_header(path, tarfile.DIRTYPE, 0o755) for path in directories)
        for file in self.files:
            yield _tar_header(f"{MODELS_DIRECTORY}/{self.model}/{file.name}", tarfile.REGTYPE, 0o644, file.size)
            yield file
            yield bytes(-file.size % TAR_BLOCK)
        yield TAR_END


def plan_layers(model: str, files: list[ModelFile]) -> list[Layer]:
    """Assign a model's files to layers: one for each shard, and a last one for all small files."""
    shards = [Layer(model, (file,)) for file in files if is_weights(file.name)]
    return [*shards, Layer(model, tuple(file for file in files if not is_weights(file.name)))]


def verify_file(file: ModelFile, blocks: Iterator[bytes], location: str) -> Iterator[bytes]:
    """Yield the blocks of a file; raises DamagedFileError at the end at the latest if size or hashes do not match."""
    sha256, git_sha1, received = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), 0
    git_sha1.update(b"blob %d\0" % file.size)
    for block in verify_header(file, blocks, location) if is_weights(file.name) else blocks:
        received += len(block)
        if received > file.size:
            raise DamagedFileError(f"{location} sent more than the {file.size:,} bytes of {file.name}")
        sha256.update(block)
        if file.git_sha1:
            git_sha1.update(block)
        yield block
    if received < file.size:
        raise DamagedFileError(f"{location} sent {received:,} of the {file.size:,} bytes of {file.name}")
    for kind, expected, actual in (("SHA-256", file.sha256, sha256), ("git SHA-1", file.git_sha1, git_sha1)):
        if expected and expected != actual.hexdigest():
            raise DamagedFileError(
                f"{file.name} from {location} is damaged: its {kind} is {actual.hexdigest()} instead of {expected}. "
                "If the error persists, the source or a proxy alters the file"
            )


def _tar_header(path: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size = kind, mode, size  # owner, group and times stay 0
    return entry.tobuf(tarfile.GNU_FORMAT)  # differs from ustar only from 8 GiB on
