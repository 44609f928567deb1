"""The model's forward pass over rows of many sequences."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from app.engine.cache import BLOCK, KeyValueCache
from app.engine.products import Division


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
            turned = self._rotary.turn(qkv[:, : self._turned], cos, sin)
            self._cache.write(number, slots, turned[:, self._heads :], qkv[:, self._turned :])
            x = x + attention.o_proj(attend(number, turned[:, : self._heads]))
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
        self._groups = model.config.num_attention_heads // self._kv_heads
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
        newest = [span for span in spans if len(span.ids) == 1]
        blocks = [span for span in spans if len(span.ids) > 1]
        packed = newest + blocks
        rows = rows_of(packed).to(self._device)
        alone = rows.shape[1] == 1
        if alone:
            # A lone row would take kernels of its own: computed twice, it takes those of company.
            rows = rows.expand(-1, 2)
        seen = [self._cache.read(self._places(span)) for span in packed]
        masks = [self._mask(span) for span in blocks]

        def attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
            keys_values = [tensors[2 * layer : 2 * layer + 2] for tensors in seen]
            attended = [
                *self._attend_newest(queries[: len(newest)], keys_values[: len(newest)]),
                *self._attend_blocks(queries[len(newest) :], keys_values[len(newest) :], masks),
            ]
            return torch.cat(attended * 2 if alone else attended)

        x = self._layers(rows, attend)
        ends = itertools.accumulate(len(span.ids) for span in packed)
        return {id(span): x[end - 1] for span, end in zip(packed, ends, strict=True) if span.scored}

    def _places(self, span: Span) -> slice:
        """Where in the cache the keys are that `span` sees."""
        return slice(span.start + span.first_seen(self._window), span.start + span.end)

    def _mask(self, span: Span) -> torch.Tensor:
        """Which of those keys each token of `span` sees, shape (tokens, keys)."""
        places = self._places(span)
        query = torch.arange(span.position, span.end)[:, None]
        key = torch.arange(places.start - span.start, span.end)[None]
        mask = key <= query
        if self._window:
            mask &= key > query - self._window
        return mask.to(self._device)

    def _attend_newest(self, queries: torch.Tensor, seen: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
        """Attention of one query a sequence, shape (sequences, heads, head dim), as rows of shape (1, hidden)."""
        # Heads that share keys are rows of one product, so that no key is repeated.
        rows = queries.view(-1, 1, self._kv_heads, self._groups, self._cache.head_dim).unbind(0)
        return [
            functional.scaled_dot_product_attention(row, keys, values).view(1, -1)
            for row, (keys, values) in zip(rows, seen, strict=True)
        ]

    def _attend_blocks(
        self, queries: torch.Tensor, seen: list[tuple[torch.Tensor, ...]], masks: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Attention of blocks, their queries one after another (rows, heads, head dim), as (tokens, hidden) each."""
        attended = []
        row = 0
        for mask, (keys, values) in zip(masks, seen, strict=True):
            block = queries[row : row + len(mask)].view(len(mask), self._kv_heads, self._groups, -1)
            block = block.permute(1, 2, 0, 3)
            row += len(mask)
            # A dimension without a stride stands for the heads that share keys.
            shape = (*block.shape[:2], -1, -1)
            out = functional.scaled_dot_product_attention(
                block, keys[0, :, None].expand(shape), values[0, :, None].expand(shape), attn_mask=mask
            )
            attended.append(out.permute(2, 0, 1, 3).flatten(1))
        return attended


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

    def turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotate x, shape (rows, heads, head dim)."""
        first, second, still = torch.split(x, [self._half, self._half, self._still], dim=-1)
        return torch.addcmul(x * cos, torch.cat([second, first, still], dim=-1), sin)
