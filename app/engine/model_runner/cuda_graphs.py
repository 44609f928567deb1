"""The model runner for GPUs: passes of two fixed shapes, each captured once as a CUDA graph and replayed.

A GPU selects kernels by the number of rows. Here a row always shares its pass with as many others, sequences or
padding, so its bits do not depend on the batch. Padding is cheap: a pass mostly waits for the weights, which one row
reads as well as a hundred.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import Phi3ForCausalLM

from app.engine.batch import ScheduledChunk, pack_rows, padding_chunk
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.kv_cache.storage import KVStorage
from app.engine.model_runner.phi3 import Phi3Layers
from app.engine.model_runner.varlen_attention import VarlenAttention, VarlenKernel

# FlashAttention 2, which varlen_attn calls, needs this compute capability and these dtypes.
MIN_CAPABILITY = (8, 0)
DTYPES = (torch.bfloat16, torch.float16)
# Runs before the capture, in which libraries initialize themselves.
WARM_UP_RUNS = 2

Forward = Callable[[], torch.Tensor]


def supports_cuda_graphs(model: Phi3ForCausalLM) -> bool:
    """Return whether `CudaGraphRunner` supports the GPU and the dtype of `model`."""
    return (
        model.device.type == "cuda"
        and model.dtype in DTYPES
        and torch.cuda.get_device_capability(model.device) >= MIN_CAPABILITY
    )


class CudaGraphRunner:
    """Implements `app.engine.batch.ModelRunner` with one pass for prefill chunks and one for decode tokens.

    Args:
        model: in evaluation mode.
        storage: of the KV cache.
        max_decode_rows: decode tokens of a call, at most.
        max_prefill_rows: tokens of all prefill chunks of a call, at most.
        kernel: of the attention; tests on a CPU replace torch's own, which needs a GPU.
    """

    def __init__(
        self,
        model: Phi3ForCausalLM,
        storage: KVStorage,
        max_decode_rows: int,
        max_prefill_rows: int,
        kernel: VarlenKernel = varlen_attn,
    ) -> None:
        layers = Phi3Layers(model, storage)
        attention = VarlenAttention(storage, model.config.sliding_window, kernel)
        self._prefill = _Pass(layers, attention, _PassShape(max_prefill_rows, BLOCK_SIZE), model.device)
        self._decode = _Pass(layers, attention, _PassShape(max_decode_rows, 1), model.device)
        self._hidden = torch.zeros(max_decode_rows, model.config.hidden_size, dtype=model.dtype, device=model.device)
        self._logits = _capture(lambda: layers.logits(self._hidden), model.device)

    @torch.inference_mode()
    def __call__(self, chunks: list[ScheduledChunk]) -> torch.Tensor:
        """Run the forward pass; see `app.engine.batch.ModelRunner`. The next call overwrites the logits."""
        hidden: dict[int, torch.Tensor] = {}
        # Prefill first: the end of a prompt can be a chunk of one token.
        for run_pass in (self._prefill, self._decode):
            own = [index for index, chunk in enumerate(chunks) if chunk.is_decode == (run_pass is self._decode)]
            if own:
                hidden.update(zip(own, run_pass([chunks[index] for index in own]), strict=True))
        last = [hidden[index] for index, chunk in enumerate(chunks) if chunk.wants_logits]
        if not last:
            return torch.empty(0)
        torch.stack(last, out=self._hidden[: len(last)])
        return self._logits()[: len(last)]


@dataclass(frozen=True, slots=True)
class _PassShape:
    """Shape of a pass: its rows, and the maximum tokens of one chunk."""

    num_rows: int
    max_chunk: int

    @property
    def max_chunks(self) -> int:
        """Chunks that fit: a prefill chunk has at least two tokens."""
        return self.num_rows if self.max_chunk == 1 else self.num_rows // 2


class _Pass:
    """A pass of a fixed number of rows."""

    def __init__(self, layers: Phi3Layers, attention: VarlenAttention, shape: _PassShape, device: torch.device) -> None:
        self._layers, self._attention, self._shape = layers, attention, shape
        self._rows = torch.zeros((4, shape.num_rows), dtype=torch.long, device=device)
        self._bounds = torch.zeros((3, shape.max_chunks + 1), dtype=torch.int32, device=device)
        self._fill([])
        self._forward = _capture(self._compute, device)

    def __call__(self, chunks: Sequence[ScheduledChunk]) -> tuple[torch.Tensor, ...]:
        """Run the pass and return the hidden state of each chunk's last token, shape (hidden,)."""
        ends = self._fill(chunks)
        last = torch.tensor(ends[: len(chunks)], device=self._rows.device) - 1
        return self._forward().index_select(0, last).unbind(0)

    def _fill(self, chunks: Sequence[ScheduledChunk]) -> list[int]:
        """Set the inputs of the pass, and return the row behind the last one of each chunk."""
        padded = list(chunks)
        free_rows = self._shape.num_rows - sum(chunk.num_tokens for chunk in chunks)
        while free_rows:
            size = min(free_rows, self._shape.max_chunk)
            padded.append(padding_chunk(size, self._attention.storage.padding_slot))
            free_rows -= size
        self._rows.copy_(pack_rows(padded))
        window = self._attention.window
        ends = list(itertools.accumulate(chunk.num_tokens for chunk in padded))
        unused = self._shape.max_chunks - len(padded)
        first_rows = [0, *ends, *[self._shape.num_rows] * unused]
        first_slots = [chunk.first_visible_slot(window) for chunk in padded] + [0] * (unused + 1)
        num_visible = [chunk.num_visible(window) for chunk in padded] + [0] * (unused + 1)
        self._bounds.copy_(torch.tensor([first_rows, first_slots, num_visible]))
        return ends

    def _compute(self) -> torch.Tensor:
        def attention(layer: int, queries: torch.Tensor) -> torch.Tensor:
            return self._attention(layer, queries, self._bounds, self._shape.max_chunk)

        return self._layers(self._rows, attention)


def _capture(compute: Forward, device: torch.device) -> Forward:
    """Capture `compute` as a CUDA graph and return its replay; on a CPU return `compute`."""
    if device.type != "cuda":
        return compute
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                compute()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = compute()
    torch.cuda.current_stream(device).wait_stream(stream)

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
