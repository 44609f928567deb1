"""Allocates consecutive slots of the KV cache, first fit."""

from dataclasses import dataclass

# Tokens of a block: the unit of allocation, of prefill chunks and of cached prefixes. Blocks start at multiples of it,
# so a prompt is cut at the same positions in every batch.
BLOCK_SIZE = 64


def round_up_to_block(num_tokens: int) -> int:
    """Return the slots of so many tokens in whole blocks."""
    return -(-num_tokens // BLOCK_SIZE) * BLOCK_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class SlotRange:
    """Consecutive slots, one for each token. Ranges compare by identity, since empty ones can be equal."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """First slot behind the range."""
        return self.start + self.size


class SlotAllocator:
    """Allocates ranges of `num_slots` slots."""

    def __init__(self, num_slots: int) -> None:
        self._free = [SlotRange(0, num_slots)]  # in order of start, never adjacent

    def allocate(self, size: int) -> SlotRange | None:
        """Return the first range of `size` free slots, or None if there is none."""
        for index, free in enumerate(self._free):
            if free.size >= size:
                rest = SlotRange(free.start + size, free.size - size)
                self._free[index : index + 1] = [rest] if rest.size else []
                return SlotRange(free.start, size)
        return None

    def free(self, slots: SlotRange) -> None:
        """Return slots to the free ranges."""
        merged: list[SlotRange] = []
        for free in sorted([*self._free, slots], key=lambda each: each.start):
            if merged and merged[-1].end == free.start:
                free = SlotRange(merged[-1].start, merged.pop().size + free.size)
            merged.append(free)
        self._free = merged
