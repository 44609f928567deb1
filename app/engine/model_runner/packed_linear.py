"""Matrix products in which a row's result does not depend on how many rows there are.

On a CPU, `torch.nn.functional.linear` takes other kernels for other numbers of rows, which round differently, and packs
the weights anew at each call. oneDNN's packed weights, which torch's own compiler uses (torch/_inductor/fx_passes/
mkldnn_fusion.py in torch 2.13), are packed once and give the same row in any company of two rows or more, and in some
shapes also alone, which `pack` finds out; on a CPU with AMX, in bfloat16, in companies of some sizes: `division` finds
out which.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

from app.engine.kv_cache import BLOCK

# Rows that the packing is made for, and that types are compared with; other numbers work as well.
ROWS = 16
# Between the numbers of rows that are tried where no order of summing is expected to change.
UNEVEN = 7


class PackedLinear(nn.Module):
    """A linear layer without bias whose weights are packed for a CPU, in place of `nn.Linear`.

    Args:
        weight: shape (out_features, in_features), on the CPU.
        computed: type in which products are summed and weights are held; results have the type of the rows.
        twice: compute a lone row twice, so that it does not take a kernel of its own.
    """

    def __init__(self, weight: torch.Tensor, computed: torch.dtype, twice: bool = True) -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        self._computed = computed
        self._twice = twice
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(computed), ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply rows, shape (..., in_features) to (..., out_features)."""
        twice = self._twice and x.numel() == x.shape[-1]
        rows = (x.reshape(1, -1).expand(2, -1) if twice else x).to(self._computed)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, None, "none", [], "")
        return (product[:1].reshape(*x.shape[:-1], -1) if twice else product).to(x.dtype)


def types() -> list[torch.dtype]:
    """In what this CPU can compute products: oneDNN has none in bfloat16 for x86 without AVX-512 or AVX-NE-CONVERT."""
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [torch.float32, torch.bfloat16] if bfloat16 else [torch.float32]


def pack(model: Phi3ForCausalLM) -> torch.dtype:
    """Replace every linear layer of `model`, which is on the CPU, by one with packed weights.

    Returns:
        the type in which products are computed: a CPU without bfloat16 arithmetic is faster in float32, which bfloat16
        weights then take twice the memory for.
    """
    computed: torch.dtype = min(
        (model.dtype, torch.float32), key=lambda candidate: seconds_per_step(candidate, model.config)
    )
    twice: dict[torch.Size, bool] = {}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                shape = child.weight.shape
                if shape not in twice:
                    twice[shape] = _same(_bits(shape, computed, (1, 2)), (1, 2)) == 1
                setattr(module, name, PackedLinear(child.weight, computed, twice[shape]))
    return computed


@dataclass(frozen=True, slots=True)
class Division:
    """How rows are divided into products so that a row has the same bits in any company.

    Attributes:
        few: any number of rows from 2 to this gives the same bits.
        many: any multiple of BLOCK to this gives the same bits, which may be others.
    """

    few: int
    many: int


def division(model: Phi3ForCausalLM, computed: torch.dtype, concurrency: int, most: int) -> Division | None:
    """Find out how rows have to be divided; None where they need not be.

    Args:
        model: packed.
        computed: as `pack` returned it.
        concurrency: sequences in a step, at most.
        most: rows in a step, at most.
    """
    few, many = list(range(2, max(concurrency, 2) + 1)), list(range(BLOCK, most + 1, BLOCK))
    whole = sorted({*few, *many, *range(concurrency, most + 1, UNEVEN)})
    shapes = {module.shape for module in model.model.modules() if isinstance(module, PackedLinear)}
    layers = [_bits(shape, computed, whole) for shape in shapes]
    head = _bits(model.lm_head.shape, computed, few)
    if all(_same(bits, whole) == whole[-1] for bits in layers) and _same(head, few) == few[-1]:
        return None
    return Division(min(_same(bits, few) for bits in [*layers, head]), min(_same(bits, many) for bits in layers))


def _bits(shape: Sequence[int], computed: torch.dtype, counts: Sequence[int]) -> dict[int, torch.Tensor]:
    """What a product of this shape makes of a row among each number of equal ones; all of them where they differ."""
    half = torch.randn(shape[0], shape[1] // 2, generator=torch.Generator().manual_seed(0)).to(computed)
    # Every sum is zero but for its rounding, which then is all that is left to see.
    product = PackedLinear(torch.cat([half, -half.flip(1)], dim=1), computed, twice=False)
    row = torch.cat([half[0], half[0].flip(0)])
    bits = {}
    for count in counts:
        rows = product(row.expand(count, -1))
        # A copy, so that the others do not stay in memory.
        bits[count] = rows[:1].clone() if torch.equal(rows, rows[:1].expand(count, -1)) else rows
    return bits


def _same(bits: dict[int, torch.Tensor], counts: Sequence[int]) -> int:
    """The last of `counts` before the bits change."""
    same = itertools.takewhile(lambda count: torch.equal(bits[count], bits[counts[0]]), counts)
    return list(same)[-1]


def seconds_per_step(computed: torch.dtype, config: Phi3Config) -> float:
    """Seconds that a step takes in the largest matrices of a few layers: the best of five, infinite without kernels."""
    if computed not in types():
        return float("inf")
    layers = min(config.num_hidden_layers, 8)
    products = [
        PackedLinear(torch.randn(2 * config.intermediate_size, config.hidden_size), computed) for _ in range(layers)
    ]
    rows = torch.randn(ROWS, config.hidden_size)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for product in products:
            product(rows)
        best = min(best, time.perf_counter() - started)
    return best
