"""Reserves slots for sequences, and keeps the prefixes of finished prompts until the slots are needed."""

from collections import OrderedDict
from collections.abc import Sequence

from transformers import Phi3ForCausalLM

from app.engine.kv_cache.prefix_index import PrefixIndex, block_hashes
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, SlotAllocator, SlotRange, round_up_to_block
from app.engine.kv_cache.storage import KVCacheShape, KVStorage


class KVCacheManager:
    """Manages the slots of `storage`.

    Attributes:
        storage: the keys and values.
        num_slots: capacity in tokens.
        num_reserved: slots that sequences hold.
    """

    def __init__(self, storage: KVStorage) -> None:
        self.storage = storage
        self.num_slots = storage.num_slots
        self.num_reserved = 0
        self._allocator = SlotAllocator(storage.num_slots)
        self._index = PrefixIndex()
        self._cached: dict[SlotRange, list[bytes]] = {}  # block hashes of reserved ranges
        self._evictable: OrderedDict[SlotRange, list[bytes]] = OrderedDict()  # of released ones, least recent first

    def reserve(self, num_tokens: int) -> SlotRange | None:
        """Reserve slots in whole blocks, evicting cached prefixes if necessary; None if too many are reserved."""
        size = round_up_to_block(num_tokens)
        while (slots := self._allocator.allocate(size)) is None:
            if not self._evictable:
                return None
            evicted, hashes = self._evictable.popitem(last=False)
            self._index.remove(hashes, evicted.start)
            self._allocator.free(evicted)
        self.num_reserved += size
        return slots

    def release(self, slots: SlotRange) -> None:
        """Release slots; their cached prefix stays until it is evicted."""
        self.num_reserved -= slots.size
        hashes = self._cached.pop(slots, [])
        prefix = SlotRange(slots.start, len(hashes) * BLOCK_SIZE)
        if hashes:
            self._evictable[prefix] = hashes
        if slots.size > prefix.size:
            self._allocator.free(SlotRange(prefix.end, slots.size - prefix.size))

    def cache_prefix(self, slots: SlotRange, prompt: Sequence[int], use_long_factors: bool) -> None:
        """Offer the whole blocks of `prompt`, whose keys and values are in `slots`, to later prompts."""
        hashes = list(block_hashes(prompt, use_long_factors))
        self._index.add(hashes, slots.start)
        self._cached[slots] = hashes

    def invalidate_prefix(self, slots: SlotRange) -> None:
        """Withdraw the prefix in `slots`, which is about to be overwritten."""
        self._index.remove(self._cached.pop(slots, []), slots.start)

    def copy_prefix(self, slots: SlotRange, prompt: Sequence[int], use_long_factors: bool) -> int:
        """Copy the cached blocks that `prompt` begins with into `slots`.

        Returns:
            the number of tokens copied: less than the prompt, whose last token yields the logits.
        """
        found = self._index.find(block_hashes(prompt[:-1], use_long_factors))
        for prefix in self._evictable:
            if any(prefix.start <= slot < prefix.end for slot in found):
                self._evictable.move_to_end(prefix)
                break
        for number, slot in enumerate(found):
            self.storage.copy_block(slot, slots.start + number * BLOCK_SIZE)
        return len(found) * BLOCK_SIZE


def kv_cache_for(model: Phi3ForCausalLM, num_slots: int) -> KVCacheManager:
    """Return an empty KV cache for `model`, on its device."""
    return KVCacheManager(KVStorage(KVCacheShape.of(model, num_slots), model.dtype, model.device))
