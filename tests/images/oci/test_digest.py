"""Verification of digests while a blob streams."""

import hashlib
from collections.abc import Iterator

import pytest

from images.errors import ImageError
from images.oci.digest import verify_digest


def split_blocks(content: bytes, size: int) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def test_last_block_is_yielded_only_if_the_digest_matches() -> None:
    content = b"abc" * 100
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert b"".join(verify_digest(split_blocks(content, 7), digest, "it")) == content
    got: list[bytes] = []
    with pytest.raises(ImageError, match="the digest of it is"):
        got.extend(verify_digest(split_blocks(content, 7), "sha256:" + "0" * 64, "it"))
    assert len(b"".join(got)) == 294
