"""A model's files from a directory on this machine."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoints.files import WEIGHTS_SUFFIX, ModelFile, is_wanted, is_weights
from images.errors import ImageError

BLOCK_BYTES = 1 << 18


class DirectorySource:
    """A source that reads a transformers checkpoint; its revision is a hash of all its files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.location = str(directory)

    def list_files(self) -> tuple[str, list[ModelFile]]:
        """Hash every file that serving needs."""
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except OSError as error:
            raise ImageError(
                f"{self._directory} cannot be read ({error.strerror}): give the directory of a model"
            ) from error
        skipped = [name for name in names if not is_wanted(name)]
        if skipped:
            print(f"{self._directory}: skipping {', '.join(skipped)}", file=sys.stderr)
        files = [self._hash_file(name) for name in names if is_wanted(name)]
        if not any(is_weights(file.name) for file in files):
            raise ImageError(
                f"{self._directory} has no *{WEIGHTS_SUFFIX}: give a directory with a transformers checkpoint"
            )
        listing = "".join(f"{file.sha256}  {file.name}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()[:40], files

    def read(self, file: ModelFile) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        path = self._directory / file.name
        try:
            with path.open("rb") as content:
                while block := content.read(BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error

    def _hash_file(self, name: str) -> ModelFile:
        path = self._directory / name
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        return ModelFile(name, path.stat().st_size, sha256=sha256)
