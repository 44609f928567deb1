"""Digests of blobs and manifests: https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests."""

import hashlib
import re
from collections.abc import Iterator

from images.errors import ImageError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(content: bytes) -> str:
    """Return the digest of `content` ("sha256:…")."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def verify_digest(blocks: Iterator[bytes], expected: str, name: str) -> Iterator[bytes]:
    """Yield the blocks of a blob, and the last one only if the digest of all of them is `expected`.

    Raises ImageError, which calls the blob `name`, if it is not.
    """
    sha256, last = hashlib.sha256(), b""
    for block in blocks:
        sha256.update(block)
        if last:
            yield last
        last = block
    digest = f"sha256:{sha256.hexdigest()}"
    if digest != expected:
        raise ImageError(f"the digest of {name} is {digest} instead of {expected}: the blob is discarded")
    yield last
