"""Batch-invariant GEMM on a CPU: linear layers with packed weights, and the row counts that give equal bits.

`torch.nn.functional.linear` selects kernels by the number of rows, which round differently, and packs the weights anew
at each call. With oneDNN's packed weights a row has the same bits in any batch of two rows or more; in some shapes also
alone, which `pack` finds out. With AMX in bfloat16 the bits depend on ranges of the row count, which `find_row_limits`
finds out.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

from app.compat.torch import has_bf16_gemm, pack_weight, packed_linear
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE

# Rows that the packing is optimized for, and that dtypes are compared with; any other number works as well.
TYPICAL_ROWS = 16
# Step between the row counts that are probed if no change of the bits is expected; prime, to hit odd remainders.
PROBE_STEP = 7


class PackedLinear(nn.Module):
    """A linear layer without bias, with packed weights, on the CPU.

    Args:
        weight: shape (out_features, in_features).
        compute_dtype: dtype of weights and sums; outputs have the dtype of the input.
        duplicate_single_row: compute a single row twice, because its own kernel rounds differently.
    """

    def __init__(self, weight: torch.Tensor, compute_dtype: torch.dtype, duplicate_single_row: bool = True) -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        self._compute_dtype = compute_dtype
        self._duplicate_single_row = duplicate_single_row
        self._packed = pack_weight(weight.detach().to(compute_dtype), TYPICAL_ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows of shape (..., in_features) to (..., out_features)."""
        duplicate = self._duplicate_single_row and x.numel() == x.shape[-1]
        rows = (x.reshape(1, -1).expand(2, -1) if duplicate else x).to(self._compute_dtype)
        product = packed_linear(rows, self._packed)
        return (product[:1].reshape(*x.shape[:-1], -1) if duplicate else product).to(x.dtype)


def gemm_dtypes() -> list[torch.dtype]:
    """Return the dtypes with oneDNN GEMM kernels on this CPU."""
    return [torch.float32, torch.bfloat16] if has_bf16_gemm() else [torch.float32]


def pack(model: Phi3ForCausalLM) -> torch.dtype:
    """Replace every linear layer of `model`, which is on the CPU, by a `PackedLinear`.

    Returns:
        the dtype of the sums: float32 is faster on a CPU without bfloat16 arithmetic, where bfloat16 weights then take
        twice the memory.
    """
    compute_dtype: torch.dtype = min(
        (model.dtype, torch.float32), key=lambda dtype: benchmark_gemm(dtype, model.config)
    )
    duplicate: dict[torch.Size, bool] = {}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                shape = child.weight.shape
                if shape not in duplicate:
                    outputs = _probe_outputs(shape, compute_dtype, (1, 2))
                    duplicate[shape] = _last_with_equal_bits(outputs, (1, 2)) == 1
                setattr(module, name, PackedLinear(child.weight, compute_dtype, duplicate[shape]))
    return compute_dtype


@dataclass(frozen=True, slots=True)
class RowLimits:
    """Row counts of a pass that give a row the same bits in every batch.

    Attributes:
        max_decode_rows: all row counts from 2 to this give equal bits.
        max_prefill_rows: all multiples of BLOCK_SIZE up to this give equal bits, possibly other ones.
    """

    max_decode_rows: int
    max_prefill_rows: int


def find_row_limits(
    model: Phi3ForCausalLM, compute_dtype: torch.dtype, max_concurrency: int, max_rows: int
) -> RowLimits | None:
    """Find the row counts of a pass; None if all give equal bits.

    Args:
        model: after `pack`.
        compute_dtype: returned by `pack`.
        max_concurrency: sequences in a step.
        max_rows: rows in a step.
    """
    decode_rows = list(range(2, max(max_concurrency, 2) + 1))
    prefill_rows = list(range(BLOCK_SIZE, max_rows + 1, BLOCK_SIZE))
    all_rows = sorted({*decode_rows, *prefill_rows, *range(max_concurrency, max_rows + 1, PROBE_STEP)})
    shapes = {module.shape for module in model.model.modules() if isinstance(module, PackedLinear)}
    layers = [_probe_outputs(shape, compute_dtype, all_rows) for shape in shapes]
    head = _probe_outputs(model.lm_head.shape, compute_dtype, decode_rows)
    if (
        all(_last_with_equal_bits(outputs, all_rows) == all_rows[-1] for outputs in layers)
        and _last_with_equal_bits(head, decode_rows) == decode_rows[-1]
    ):
        return None
    return RowLimits(
        max_decode_rows=min(_last_with_equal_bits(outputs, decode_rows) for outputs in [*layers, head]),
        max_prefill_rows=min(_last_with_equal_bits(outputs, prefill_rows) for outputs in layers),
    )


def _probe_outputs(
    shape: Sequence[int], compute_dtype: torch.dtype, row_counts: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Multiply batches of equal rows with a weight of `shape`, and return the outputs by row count.

    The second half of the weight mirrors the first with the opposite sign, and the row mirrors itself: each term has
    its negative, so every exact sum is zero and the output is nothing but rounding error, which shows any other order.

    Returns:
        the first row of the output, shape (1, out_features), or all rows if they differ.
    """
    half = torch.randn(shape[0], shape[1] // 2, generator=torch.Generator().manual_seed(0)).to(compute_dtype)
    linear = PackedLinear(torch.cat([half, -half.flip(1)], dim=1), compute_dtype, duplicate_single_row=False)
    row = torch.cat([half[0], half[0].flip(0)])
    outputs = {}
    for count in row_counts:
        rows = linear(row.expand(count, -1))
        # A copy frees the memory of the other rows.
        outputs[count] = rows[:1].clone() if torch.equal(rows, rows[:1].expand(count, -1)) else rows
    return outputs


def _last_with_equal_bits(outputs: dict[int, torch.Tensor], row_counts: Sequence[int]) -> int:
    """Return the last of `row_counts` before the bits of the output change."""
    first = outputs[row_counts[0]]
    return list(itertools.takewhile(lambda count: torch.equal(outputs[count], first), row_counts))[-1]


def benchmark_gemm(dtype: torch.dtype, config: Phi3Config) -> float:
    """Return the seconds of the largest GEMM in up to 8 layers, the best of 5 runs; infinity without kernels."""
    if dtype not in gemm_dtypes():
        return float("inf")
    num_layers = min(config.num_hidden_layers, 8)
    linears = [
        PackedLinear(torch.randn(2 * config.intermediate_size, config.hidden_size), dtype) for _ in range(num_layers)
    ]
    rows = torch.randn(TYPICAL_ROWS, config.hidden_size)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for linear in linears:
            linear(rows)
        best = min(best, time.perf_counter() - started)
    return best
