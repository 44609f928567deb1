"""Private APIs of torch 2.13: oneDNN's packed GEMM, as torch's compiler calls it (torch/_inductor/fx_passes/
mkldnn_fusion.py). Public functions pack the weights at each call and choose kernels by the number of rows.
"""

import torch


def has_bf16_gemm() -> bool:
    """Return whether oneDNN has bfloat16 kernels for this CPU: x86 needs AVX-512 or AVX-NE-CONVERT."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_weight(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Pack a weight, shape (out_features, in_features), for products with about `rows` rows."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return packed


def packed_linear(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """Multiply `x`, shape (..., in_features), with a packed weight, to shape (..., out_features)."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product
