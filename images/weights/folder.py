"""A model's files from a folder on this machine."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from images.errors import ImageError
from images.weights.source import WEIGHTS, File, is_wanted

BLOCK = 1 << 18


class Folder:
    """A source that reads a transformers checkpoint; its revision is a hash of all its files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)

    def files(self) -> tuple[str, list[File]]:
        """Hash every wanted file."""
        try:
            names = sorted(path.name for path in self._path.iterdir())
        except OSError as error:
            raise ImageError(f"{self._path} cannot be read ({error.strerror}): name a folder with a model") from error
        left_out = [name for name in names if not is_wanted(name)]
        if left_out:
            print(f"{self._path}: leaving out {', '.join(left_out)}", file=sys.stderr)
        files = [self._describe(name) for name in names if is_wanted(name)]
        if not any(file.name.endswith(WEIGHTS) for file in files):
            raise ImageError(f"{self._path} has no *{WEIGHTS}: name a folder with a transformers checkpoint")
        whole = "".join(f"{file.sha256}  {file.name}\n" for file in files)
        return hashlib.sha256(whole.encode()).hexdigest()[:40], files

    def read(self, file: File) -> Iterator[bytes]:
        """Yield blocks of a file."""
        try:
            with (self._path / file.name).open("rb") as content:
                while block := content.read(BLOCK):
                    yield block
        except OSError as error:
            raise ImageError(f"{self._path / file.name} cannot be read: {error.strerror}") from error

    def _describe(self, name: str) -> File:
        with (self._path / name).open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        return File(name, (self._path / name).stat().st_size, sha256=sha256)
