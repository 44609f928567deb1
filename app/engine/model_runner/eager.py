"""The model's forward pass over rows of many sequences."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from app.engine.kv_cache import BLOCK, KeyValueCache, whole_blocks
from app.engine.model_runner.packed_linear import Division


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence, the last of those in the cache so far.

    Attributes:
        ids: the tokens.
        position: of the first of them in the sequence, from 0.
        start: place of the sequence's first token in the cache.
        long: whether to rotate with LongRoPE's factors for long sequences.
        scored: whether the scores of what follows the last token are wanted.
    """

    ids: list[int]
    position: int
    start: int
    long: bool
    scored: bool

    @property
    def end(self) -> int:
        """Tokens of the sequence up to the end of the span."""
        return self.position + len(self.ids)

    def first_seen(self, window: int | None) -> int:
        """The first token of the sequence that any of the span sees, through a sliding `window` of so many tokens."""
        return max(0, self.position + 1 - window) if window else 0


def rows_of(spans: Sequence[Span]) -> torch.Tensor:
    """All tokens of `spans`, as `Layers` takes them, on the CPU."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    long: list[int] = []
    for span in spans:
        ids += span.ids
        positions += range(span.position, span.end)
        slots += range(span.start + span.position, span.start + span.end)
        long += [int(span.long)] * len(span.ids)
    return torch.tensor([ids, positions, slots, long])


def filler(size: int, cache: KeyValueCache) -> Span:
    """Tokens that belong to no sequence, at most BLOCK, to fill up a pass with."""
    return Span([0] * size, 0, cache.spare, False, False)


# Attention in a layer, by its number: queries, shape (rows, heads, head dim), to rows of shape (rows, hidden).
Attend = Callable[[int, torch.Tensor], torch.Tensor]


class Layers:
    """Phi-3's layers over a shared cache.

    The arithmetic is that of transformers' Phi3ForCausalLM, whose weights it uses. Each row is rotated by factors of
    its own, so that it depends on other sequences through attention and the matrix products' choice of kernel at most.

    Args:
        model: in evaluation mode.
        cache: where keys and values are put.
    """

    def __init__(self, model: Phi3ForCausalLM, cache: KeyValueCache) -> None:
        self._body = model.model
        self._head = model.lm_head
        self._cache = cache
        self._eps = model.config.rms_norm_eps
        self._heads = model.config.num_attention_heads
        self._turned = self._heads + model.config.num_key_value_heads
        self._rotary = _Rotary(model)

    def __call__(self, rows: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Put tokens into the cache.

        Args:
            rows: of each token its id, its position in its sequence (from 0), its place in the cache, and 1 where it is
                rotated with LongRoPE's factors for long sequences; shape (4, rows).
            attend: called once keys and values of a layer are in the cache.

        Returns:
            what `scores` takes, shape (rows, hidden).
        """
        ids, positions, slots, long = rows.unbind(0)
        cos, sin = self._rotary(positions, long)
        x: torch.Tensor = self._body.embed_tokens(ids)
        for number, layer in enumerate(self._body.layers):
            attention, mlp = layer.self_attn, layer.mlp
            h = self._norm(x, layer.input_layernorm.weight)
            qkv = attention.qkv_proj(h).view(len(ids), -1, self._cache.head_dim)
            self._rotary.turn(qkv[:, : self._turned], cos, sin)
            self._cache.write(number, slots, qkv[:, self._heads :])
            x = x + attention.o_proj(attend(number, qkv[:, : self._heads]))
            gate, up = mlp.gate_up_proj(self._norm(x, layer.post_attention_layernorm.weight)).chunk(2, dim=-1)
            x = x + mlp.down_proj(functional.silu(gate) * up)
        return x

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the next token, float32, shape (rows, vocabulary)."""
        return cast(torch.Tensor, self._head(self._norm(x, self._body.norm.weight)).float())

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._eps)


class Decoder:
    """Takes sequences further, packed one after another without padding; each attends to its own keys alone.

    Args:
        model: in evaluation mode.
        cache: where keys and values are.
        division: of rows into passes; None is all in one.
    """

    def __init__(self, model: Phi3ForCausalLM, cache: KeyValueCache, division: Division | None = None) -> None:
        self._device = model.device
        self._layers = Layers(model, cache)
        self._cache = cache
        self._kv_heads = model.config.num_key_value_heads
        self._sharing = model.config.num_attention_heads // self._kv_heads
        self._window = model.config.sliding_window
        self._division = division

    @torch.inference_mode()
    def __call__(self, spans: list[Span]) -> torch.Tensor:
        """Put the tokens of `spans` into the cache; spans of one sequence stand in its order.

        Returns:
            float32 scores of the next token after each span that wants them, shape (spans scored, vocabulary).
        """
        last = {key: row for group in self._passes(spans) for key, row in self._compute(group).items()}
        scored = [last[id(span)] for span in spans if span.scored]
        if not scored:
            return torch.empty(0)
        few = self._division.few if self._division else len(scored)
        parts = [torch.stack(scored[start : start + few]) for start in range(0, len(scored), few)]
        return torch.cat([self._layers.scores(part) for part in parts])

    def _passes(self, spans: list[Span]) -> list[list[Span]]:
        """Divide spans: blocks apart from newest tokens, and filled up with rows that nobody wants."""
        if not self._division:
            return [spans]
        passes: list[list[Span]] = []
        room = 0
        for span in spans:
            if len(span.ids) > 1:
                if len(span.ids) > room:
                    passes.append([])
                    room = self._division.many
                passes[-1].append(span)
                room -= len(span.ids)
        for group in passes:
            if lacking := -sum(len(span.ids) for span in group) % BLOCK:
                group.append(filler(lacking, self._cache))
        # Last, since the end of a prompt can be a span of one token.
        newest, few = [span for span in spans if len(span.ids) == 1], self._division.few
        return passes + [newest[start : start + few] for start in range(0, len(newest), few)]

    def _compute(self, spans: list[Span]) -> dict[int, torch.Tensor]:
        """Compute a pass: what follows from the last token of each span that wants scores, by the span's id."""
        if self._device.type != "cpu" and sum(len(span.ids) for span in spans) == 1:
            # A lone row would take kernels of its own, which packed products do not: twice, it takes those of company.
            spans = spans * 2
        groups = self._groups([span for span in spans if len(span.ids) == 1])
        blocks = [span for span in spans if len(span.ids) > 1]
        packed = [*itertools.chain(*groups), *blocks]
        parts = [*map(self._newest, groups), *map(self._block, blocks)]
        sizes = [*map(len, groups), *(len(span.ids) for span in blocks)]

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            own = torch.split(queries, sizes)
            return torch.cat([part(layer, rows) for part, rows in zip(parts, own, strict=True)])

        x = self._layers(rows_of(packed).to(self._device), attend)
        ends = itertools.accumulate(len(span.ids) for span in packed)
        return {id(span): x[end - 1] for span, end in zip(packed, ends, strict=True) if span.scored}

    def _place(self, span: Span) -> int:
        """Where in the cache the first key is that `span` sees."""
        return span.start + span.first_seen(self._window)

    def _seen(self, span: Span) -> int:
        """How many keys `span` sees."""
        return span.end - span.first_seen(self._window)

    def _groups(self, newest: list[Span]) -> list[list[Span]]:
        """Divide newest tokens into those that see keys in as many blocks, and at equal distances."""
        groups: list[list[Span]] = []
        for span in sorted(newest, key=lambda span: (whole_blocks(self._seen(span)), self._place(span))):
            group = groups[-1] if groups else []
            blocks = {whole_blocks(self._seen(each)) for each in [*group[-1:], span]}
            pairs = itertools.pairwise([*group[-2:], span])
            distances = {self._place(after) - self._place(before) for before, after in pairs}
            if len(blocks) == len(distances) == 1:
                group.append(span)
            else:
                groups.append([span])
        return groups

    def _newest(self, group: list[Span]) -> Attend:
        """Attention of newest tokens that are a group: queries of shape (sequences, heads, head dim)."""
        # What is computed for a token depends on the number of keys: they are filled up to whole blocks.
        size = whole_blocks(self._seen(group[0]))
        first, second = self._place(group[0]), self._place(group[min(1, len(group) - 1)])
        seen = self._cache.read(first, size, len(group), second - first)
        lengths = torch.tensor([self._seen(span) for span in group])
        beyond = torch.arange(size) >= lengths[:, None, None, None]
        mask = torch.zeros(beyond.shape, dtype=seen[0].dtype).masked_fill(beyond, -torch.inf).to(self._device)

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            keys, values = seen[2 * layer : 2 * layer + 2]
            # Heads that share keys are rows of one product, so that no key is repeated.
            rows = queries.view(len(group), self._kv_heads, self._sharing, -1)
            return functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).flatten(1)

        return attend

    def _block(self, span: Span) -> Attend:
        """Attention of a block: queries of shape (tokens, heads, head dim)."""
        first = span.first_seen(self._window)
        seen = self._cache.read(self._place(span), self._seen(span))
        query = torch.arange(span.position, span.end)[:, None]
        key = torch.arange(first, span.end)[None]
        mask = key <= query
        if self._window:
            mask &= key > query - self._window
        mask = mask.to(self._device)

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            # A dimension without a stride stands for the heads that share keys.
            shape = (self._kv_heads, self._sharing, -1, -1)
            keys, values = (tensor[0, :, None].expand(shape) for tensor in seen[2 * layer : 2 * layer + 2])
            block = queries.view(len(span.ids), self._kv_heads, self._sharing, -1).permute(1, 2, 0, 3)
            out = functional.scaled_dot_product_attention(block, keys, values, attn_mask=mask)
            return out.permute(2, 0, 1, 3).flatten(1)

        return attend


class _Rotary:
    """Rotary position embedding, with each row's own choice of LongRoPE's two sets of factors."""

    def __init__(self, model: Phi3ForCausalLM) -> None:
        embedding = model.model.rotary_emb
        short = embedding.original_inv_freq.float()
        long = short
        if embedding.rope_type == "longrope":
            beyond = model.config.rope_parameters["original_max_position_embeddings"] + 1
            long, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, device=short.device, seq_len=beyond)
        self._frequencies = torch.stack([short, long.to(short.device)])
        self._scaling = embedding.attention_scaling
        self._dtype = model.dtype
        self._half = len(short)
        # Dimensions that are not rotated.
        self._still = model.model.layers[0].self_attn.head_dim - 2 * self._half

    def __call__(self, positions: torch.Tensor, long: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines for rows at `positions`, each of shape (rows, 1, head dim)."""
        angles = positions[:, None].float() * self._frequencies[long]
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        cos = functional.pad(torch.cat([cos, cos], dim=-1), (0, self._still), value=1.0)
        sin = functional.pad(torch.cat([-sin, sin], dim=-1), (0, self._still))
        return cos.to(self._dtype)[:, None], sin.to(self._dtype)[:, None]

    def turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate x, shape (rows, heads, head dim), in its place."""
        first, second, still = torch.split(x, [self._half, self._half, self._still], dim=-1)
        swapped = torch.cat([second, first, still], dim=-1)
        x.mul_(cos).addcmul_(swapped, sin)
