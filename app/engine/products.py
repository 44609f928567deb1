"""Matrix products in which a row's result does not depend on how many rows there are.

On a CPU, `torch.nn.functional.linear` takes other kernels for other numbers of rows, which round differently, and packs
the weights anew at each call. oneDNN's packed weights, which torch's own compiler uses (torch/_inductor/fx_passes/
mkldnn_fusion.py in torch 2.13), are packed once and give the same row in any company of two rows or more.
"""

import time

import torch
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

# Rows that the packing is made for, and that types are compared with; other numbers work as well.
ROWS = 16


class PackedLinear(nn.Module):
    """A linear layer without bias whose weights are packed for a CPU, in place of `nn.Linear`.

    Args:
        weight: shape (out_features, in_features), on the CPU.
        computed: type in which products are summed and weights are held; results have the type of the rows.
    """

    def __init__(self, weight: torch.Tensor, computed: torch.dtype) -> None:
        super().__init__()
        self._computed = computed
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(computed), ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply rows, shape (..., in_features) to (..., out_features)."""
        alone = x.numel() == x.shape[-1]
        # A lone row would take a kernel of its own.
        rows = (x.reshape(1, -1).expand(2, -1) if alone else x).to(self._computed)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, None, "none", [], "")
        return (product[:1].reshape(*x.shape[:-1], -1) if alone else product).to(x.dtype)


def pack(model: Phi3ForCausalLM) -> torch.dtype:
    """Replace every linear layer of `model`, which is on the CPU, by one with packed weights.

    Returns:
        the type in which products are computed: a CPU without bfloat16 arithmetic is faster in float32, which bfloat16
        weights then take twice the memory for.
    """
    computed: torch.dtype = min(
        (model.dtype, torch.float32), key=lambda candidate: seconds_per_step(candidate, model.config)
    )
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, computed))
    return computed


def seconds_per_step(computed: torch.dtype, config: Phi3Config) -> float:
    """Seconds that a step takes in the largest matrices of a few layers: the best of five."""
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
