"""The cache of keys and values: one tensor a layer, in which every sequence has an extent to itself."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Phi3ForCausalLM

# Tokens that are computed together and shared together: a prompt is cut at its multiples, whoever computes it.
BLOCK = 64


def whole_blocks(tokens: int) -> int:
    """The places that so many tokens take: whole blocks, so that extents often lie at equal distances."""
    return -(-tokens // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """Consecutive places in the cache, one a token."""

    start: int
    size: int


class KeyValueCache:
    """Keys and values of all sequences, and the beginnings of prompts that later ones may share.

    Args:
        layers: of the model.
        heads: for keys and values.
        head_dim: size of one head.
        tokens: places for tokens, rounded up to whole blocks.
        dtype: of keys and values.
        device: where they are; the memory is taken, and touched, at once.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        tokens = whole_blocks(tokens)
        # zero_ and not zeros, whose memory a CPU does not really take before it is used.
        shape = (2 * layers, 1, heads, tokens + BLOCK, head_dim)
        self._pool = torch.empty(shape, dtype=dtype, device=device).zero_()
        self._layers = self._pool.view(layers, 2, *shape[1:]).unbind(0)  # keys, then values
        self.head_dim = head_dim
        self.tokens = tokens
        self.spare = tokens  # first of BLOCK places that no sequence has, for rows that only fill up a pass
        self._gaps = [Extent(0, tokens)]  # in order
        self._kept: OrderedDict[Extent, list[bytes]] = OrderedDict()  # of no sequence; the longest unused first
        self._blocks: dict[bytes, int] = {}  # name of a block, see _names: its place
        self._names: dict[Extent, list[bytes]] = {}  # blocks that are to be found in an extent
        self.reserved = 0

    def reserve(self, size: int) -> Extent | None:
        """Give out places for `size` tokens, dropping kept prompts where it must; None while there is no room."""
        size = whole_blocks(size)
        while (place := self._first_gap(size)) is None:
            if not self._kept:
                return None
            extent, names = self._kept.popitem(last=False)
            self._forget(names, extent)
            self._add_gap(extent)
        gap = self._gaps[place]
        rest = [Extent(gap.start + size, gap.size - size)] if gap.size > size else []
        self._gaps[place : place + 1] = rest
        self.reserved += size
        return Extent(gap.start, size)

    def release(self, extent: Extent) -> None:
        """Take back an extent, keeping the blocks that `publish` named for as long as there is room."""
        self.reserved -= extent.size
        names = self._names.pop(extent, [])
        kept = Extent(extent.start, len(names) * BLOCK)
        if names:
            self._kept[kept] = names
        if extent.size > kept.size:
            self._add_gap(Extent(extent.start + kept.size, extent.size - kept.size))

    def publish(self, extent: Extent, prompt: Sequence[int], long: bool) -> None:
        """Let later prompts share the whole blocks of `prompt`, which have been computed into `extent`."""
        names = list(block_names(prompt, long))
        for number, name in enumerate(names):
            self._blocks.setdefault(name, extent.start + number * BLOCK)
        self._names[extent] = names

    def withdraw(self, extent: Extent) -> None:
        """Let nobody share what was published of `extent`, which is about to be computed anew."""
        self._forget(self._names.pop(extent, []), extent)

    def share(self, extent: Extent, prompt: Sequence[int], long: bool) -> int:
        """Copy into `extent` the blocks that `prompt` begins with and that are here.

        Returns:
            tokens copied: fewer than the prompt has, since its last token is computed in any case.
        """
        found = []
        for name in block_names(prompt[:-1], long):
            place = self._blocks.get(name)
            if place is None:
                break
            found.append(place)
        for kept in self._kept:
            if any(kept.start <= place < kept.start + kept.size for place in found):
                self._kept.move_to_end(kept)
                break
        for number, place in enumerate(found):
            source = slice(place, place + BLOCK)
            target = slice(extent.start + number * BLOCK, extent.start + (number + 1) * BLOCK)
            self._pool[:, :, :, target] = self._pool[:, :, :, source]
        return len(found) * BLOCK

    def write(self, layer: int, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """Put rows at the places `slots`, shape (rows,): of keys, then values, shape (rows, 2 * heads, head dim)."""
        rows = keys_values.view(len(slots), 2, 1, -1, self.head_dim)
        self._layers[layer].index_copy_(3, slots, rows.permute(1, 2, 3, 0, 4))

    def layer(self, number: int) -> tuple[torch.Tensor, ...]:
        """Keys and values of a layer at all places: views of shape (places, heads, head dim)."""
        return self._layers[number][:, 0].transpose(1, 2).unbind(0)

    def read(self, start: int, size: int, count: int = 1, distance: int = 0) -> tuple[torch.Tensor, ...]:
        """Keys and values of every layer in turn, at `size` places from `start` on, and so `count` times.

        Args:
            start: of the first places.
            size: places each time.
            count: how many times.
            distance: from each start to the next.

        Returns:
            views of shape (count, heads, size, head dim).
        """
        places = self._pool[:, :, :, start : start + size]
        tensors, _, *rest = places.stride()
        shape = (len(places), count, *places.shape[2:])
        return places.as_strided(shape, (tensors, distance * rest[1], *rest)).unbind(0)

    def _first_gap(self, size: int) -> int | None:
        return next((place for place, gap in enumerate(self._gaps) if gap.size >= size), None)

    def _add_gap(self, extent: Extent) -> None:
        merged: list[Extent] = []
        for gap in sorted([*self._gaps, extent], key=lambda gap: gap.start):
            if merged and merged[-1].start + merged[-1].size == gap.start:
                gap = Extent(merged[-1].start, merged.pop().size + gap.size)
            merged.append(gap)
        self._gaps = merged

    def _forget(self, names: list[bytes], extent: Extent) -> None:
        for number, name in enumerate(names):
            if self._blocks.get(name) == extent.start + number * BLOCK:
                del self._blocks[name]


def cache_for(model: Phi3ForCausalLM, tokens: int) -> KeyValueCache:
    """An empty cache of `tokens` places for the keys and values of `model`, beside its weights."""
    layers, heads = model.config.num_hidden_layers, model.config.num_key_value_heads
    head_dim = model.model.layers[0].self_attn.head_dim
    return KeyValueCache(layers, heads, head_dim, tokens, model.dtype, model.device)


def block_names(ids: Sequence[int], long: bool) -> Iterator[bytes]:
    """Name each whole block of `ids` after all tokens up to its end, and the factors that it was rotated with."""
    digest = hashlib.sha256(b"long" if long else b"short")
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        digest.update(array("i", ids[start : start + BLOCK]).tobytes())
        yield digest.digest()
