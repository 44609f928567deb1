"""The interface to the origin of a model's files."""

from collections.abc import Iterator
from typing import Protocol

from checkpoints.files import ModelFile


class Source(Protocol):
    """The files of one revision of one model."""

    location: str
    """The name of the source in messages."""

    def list_files(self) -> tuple[str, list[ModelFile]]:
        """Return the revision, and the files that serving needs, by name in order.

        Raises ImageError, or TransientError if a retry may help.
        """

    def read(self, file: ModelFile) -> Iterator[bytes]:
        """Yield the bytes of a file without verifying them; raises the errors of `list_files`."""
