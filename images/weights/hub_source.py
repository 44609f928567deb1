"""A model's files from the Hugging Face Hub, as a stream that never touches the disk."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from checkpoints.catalogue import CatalogueModel
from checkpoints.errors import HubError, TransientHubError
from checkpoints.files import ModelFile
from checkpoints.hub import HubClient
from images.errors import ImageError, TransientError
from images.io.progress import Progress

BLOCK_BYTES = 1 << 18


class HubSource:
    """A source that reads a model at its pinned revision."""

    def __init__(self, model: CatalogueModel) -> None:
        self._model = model
        self._hub = HubClient(model, lambda line: Progress.log_line(f"{model.name}: {line}"))
        self.location = self._hub.endpoint

    def list_files(self) -> tuple[str, list[ModelFile]]:
        """Request the files of the revision from the hub."""
        with _translate_errors():
            listing = self._hub.list_files()
        if listing.skipped:
            print(f"{self._model.name}: skipping {', '.join(listing.skipped)}", file=sys.stderr)
        return self._model.revision, listing.files

    def read(self, file: ModelFile) -> Iterator[bytes]:
        """Yield the bytes of a file, each once, even if the hub sends some of them again after an interruption."""
        received = 0
        with _translate_errors():
            for block in self._hub.stream(file, block_size=BLOCK_BYTES):
                new = block.content[max(0, received - block.offset) :]
                received += len(new)
                if new:
                    yield new


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn the hub's errors into those of this package."""
    try:
        yield
    except TransientHubError as error:
        raise TransientError(str(error), error.wait) from error
    except HubError as error:
        raise ImageError(str(error)) from error
