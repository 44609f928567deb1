"""Finds the blocks of a prompt prefix whose keys and values are in the cache, by chained block hashes."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence

from app.engine.kv_cache.slot_allocator import BLOCK_SIZE


def block_hashes(token_ids: Sequence[int], use_long_factors: bool) -> Iterator[bytes]:
    """Hash each whole block of `token_ids` with all tokens before it and the LongRoPE factors of its keys."""
    digest = hashlib.sha256(b"long" if use_long_factors else b"short")
    for start in range(0, len(token_ids) - BLOCK_SIZE + 1, BLOCK_SIZE):
        digest.update(array("i", token_ids[start : start + BLOCK_SIZE]).tobytes())
        yield digest.digest()


class PrefixIndex:
    """Maps block hashes to the first slot of a block with that content."""

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}

    def add(self, hashes: Sequence[bytes], start: int) -> None:
        """Add consecutive blocks from slot `start` on; a hash that is known keeps its block."""
        for number, block_hash in enumerate(hashes):
            self._slots.setdefault(block_hash, start + number * BLOCK_SIZE)

    def remove(self, hashes: Sequence[bytes], start: int) -> None:
        """Remove what `add` added for the same arguments."""
        for number, block_hash in enumerate(hashes):
            if self._slots.get(block_hash) == start + number * BLOCK_SIZE:
                del self._slots[block_hash]

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the first slots of the leading blocks that are known."""
        found = []
        for block_hash in hashes:
            slot = self._slots.get(block_hash)
            if slot is None:
                break
            found.append(slot)
        return found
