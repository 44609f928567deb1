"""The files of a model: their names, sizes and hashes, and which of them are used."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

INDEX = "model.safetensors.index.json"
"""The name that transformers gives to the index of sharded weights, which maps each tensor to its shard."""
WEIGHTS_SUFFIX = ".safetensors"
WANTED_PATTERNS = (
    f"*{WEIGHTS_SUFFIX}",
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
"""Patterns for the files that are downloaded or packed. None can carry code: pickles and Python are never fetched."""


@dataclass(frozen=True)
class ModelFile:
    """A file of a model: its `size` in bytes and the hashes that are known.

    The hub publishes the SHA-256 of files in LFS, and git's blob SHA-1 of the others.
    """

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


def is_wanted(name: str) -> bool:
    """Return whether a file is needed to serve a model."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in WANTED_PATTERNS)


def is_weights(name: str) -> bool:
    """Return whether a file holds weights."""
    return name.endswith(WEIGHTS_SUFFIX)
