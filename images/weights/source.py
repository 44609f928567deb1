"""Where a model's files come from: what each is, and its bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

INDEX = "model.safetensors.index.json"
"""As transformers names it: which of several files holds which weight."""
WEIGHTS = ".safetensors"
WANTED = (
    f"*{WEIGHTS}",
    INDEX,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "LICENSE*",
    "NOTICE*",
)
"""Names of the files that go into an image, none of which can carry code. Pickles and Python never do."""


@dataclass(frozen=True)
class File:
    """A file of a model: its `size` in bytes, and those of its hashes that are known.

    The hub states the SHA-256 of a file in LFS, and the SHA-1 that git gives any other.
    """

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


class Source(Protocol):
    """Gives out the files of one revision of one model."""

    place: str
    """What errors call it."""

    def files(self) -> tuple[str, list[File]]:
        """Return the revision and the files that are wanted, by name in order.

        Raises ImageError, or TransientError where trying again may help.
        """

    def read(self, file: File) -> Iterator[bytes]:
        """Yield a file's bytes, unchecked; raises as `files` does."""


def is_wanted(name: str) -> bool:
    """Tell whether a file belongs into an image."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in WANTED)
