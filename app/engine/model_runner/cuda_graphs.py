"""The forward pass for GPUs: in passes of fixed shapes, which are recorded once and then replayed as CUDA graphs.

A GPU chooses kernels by the number of rows too. Here a row is always computed among as many others, whether they are
sequences or fill up the pass, so that what it gets does not depend on company. Reading the weights takes most of a
pass, and that takes as long for one row as for a hundred.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import BLOCK, KeyValueCache
from app.engine.model_runner.eager import Layers, Span, filler, rows_of
from app.engine.scheduler import PROMPT_TOKENS

# What FlashAttention 2 needs, which varlen_attn calls.
CAPABILITY = (8, 0)
TYPES = (torch.bfloat16, torch.float16)
# Rounds before recording, in which libraries set themselves up.
WARM_UPS = 2

Forward = Callable[[], torch.Tensor]
Attention = Callable[..., Any]


def supported(model: Phi3ForCausalLM) -> bool:
    """Whether the GPU and the type of `model` are served by `FixedDecoder`."""
    return (
        model.device.type == "cuda"
        and model.dtype in TYPES
        and torch.cuda.get_device_capability(model.device) >= CAPABILITY
    )


class FixedDecoder:
    """Does what `Decoder` does: one pass for the blocks of prompts, and one for the newest token of each sequence.

    Args:
        model: in evaluation mode.
        cache: where keys and values are.
        concurrency: sequences in a step, at most.
        attention: what plays the part of `torch.nn.attention.varlen.varlen_attn`.
    """

    def __init__(
        self,
        model: Phi3ForCausalLM,
        cache: KeyValueCache,
        concurrency: int,
        attention: Attention = varlen_attn,
    ) -> None:
        layers = Layers(model, cache)
        self._blocks = _Pass(model, layers, cache, attention, rows=PROMPT_TOKENS, longest=BLOCK)
        self._newest = _Pass(model, layers, cache, attention, rows=concurrency, longest=1)
        self._scored = torch.zeros(concurrency, model.config.hidden_size, dtype=model.dtype, device=model.device)
        self._scores = _recorded(lambda: layers.scores(self._scored), model.device)

    @torch.inference_mode()
    def __call__(self, spans: list[Span]) -> torch.Tensor:
        """As `Decoder` does; spans have at most BLOCK tokens, and those of more than one PROMPT_TOKENS in all.

        The result is overwritten by the next call.
        """
        last: dict[int, torch.Tensor] = {}
        # Blocks first: the end of a prompt can be a span of one token.
        for forward in (self._blocks, self._newest):
            own = [span for span in spans if (len(span.ids) == 1) == (forward is self._newest)]
            if own:
                last.update(zip(map(id, own), forward(own), strict=True))
        scored = [last[id(span)] for span in spans if span.scored]
        if not scored:
            return torch.empty(0)
        torch.stack(scored, out=self._scored[: len(scored)])
        return self._scores()[: len(scored)]


class _Pass:
    """A pass of a fixed number of rows.

    Args:
        model: in evaluation mode.
        layers: of the model.
        cache: where keys and values are.
        attention: see `FixedDecoder`.
        rows: tokens of a pass.
        longest: tokens of a span, at most.
    """

    def __init__(
        self,
        model: Phi3ForCausalLM,
        layers: Layers,
        cache: KeyValueCache,
        attention: Attention,
        *,
        rows: int,
        longest: int,
    ) -> None:
        self._layers, self._cache, self._attention = layers, cache, attention
        self._length, self._longest = rows, longest
        # Each span has two tokens or more where more than one is allowed.
        self._most = rows if longest == 1 else rows // 2
        self._window = model.config.sliding_window
        self._rows = torch.zeros((4, rows), dtype=torch.long, device=model.device)
        # Of each span the first row, the place of the first key, and how many keys there are, with an end behind.
        self._spans = torch.zeros((3, self._most + 1), dtype=torch.int32, device=model.device)
        self._fill([])
        self._forward = _recorded(self._compute, model.device)

    def __call__(self, spans: Sequence[Span]) -> tuple[torch.Tensor, ...]:
        """Compute `spans`, and return of each what follows from its last token, shape (hidden,)."""
        ends = self._fill(spans)
        last = torch.tensor(ends[: len(spans)], device=self._rows.device) - 1
        return self._forward().index_select(0, last).unbind(0)

    def _fill(self, spans: Sequence[Span]) -> list[int]:
        """Set what the pass reads, and return the row behind the last one of each span."""
        filled = list(spans)
        left = self._length - sum(len(span.ids) for span in spans)
        while left:
            size = min(left, self._longest)
            filled.append(filler(size, self._cache))
            left -= size
        self._rows.copy_(rows_of(filled))
        ends = list(itertools.accumulate(len(span.ids) for span in filled))
        firsts = [span.first_seen(self._window) for span in filled]
        starts = [span.start + first for span, first in zip(filled, firsts, strict=True)]
        used = [span.end - first for span, first in zip(filled, firsts, strict=True)]
        none = self._most - len(filled)
        bounds = [0, *ends, *[self._length] * none]
        self._spans.copy_(torch.tensor([bounds, [*starts, *[0] * (none + 1)], [*used, *[0] * (none + 1)]]))
        return ends

    def _compute(self) -> torch.Tensor:
        """What `Layers` returns for the rows that are set."""
        return self._layers(self._rows, self._attend)

    def _attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        keys, values = self._cache.layer(layer)
        bounds, starts, used = self._spans.unbind(0)
        # A single query is the newest: it sees all keys that are left to it.
        window = (-1, -1) if self._longest == 1 else (self._window - 1 if self._window else -1, 0)
        attended: torch.Tensor = self._attention(
            queries,
            keys,
            values,
            bounds,
            starts,  # the kernel takes lengths from seqused_k, so that keys need not stand one after another
            self._longest,
            self._cache.tokens,
            window_size=window,
            enable_gqa=True,
            seqused_k=used[:-1],
            num_splits=1,
        )
        return attended.flatten(1)


def _recorded(compute: Forward, device: torch.device) -> Forward:
    """Return what replays `compute`, always with the same tensors; on a CPU `compute` itself."""
    if device.type != "cuda":
        return compute
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = compute()
    torch.cuda.current_stream(device).wait_stream(stream)

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
