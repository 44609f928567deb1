"""The catalogue of models, and the GPU memory that a model needs according to it."""

from typing import Any

import yaml

from tests.charts.helm import ROOT

CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "checkpoints/catalogue.yaml").read_text())["models"]
# GPU memory for CUDA, its kernels and the activations of one step, in MiB.
RESERVED_MIB = 1536


def min_gpu_memory_mib(model: str, context: int) -> int:
    """Return the MiB of GPU memory that a model needs for a context, by the formula in the catalogue's header."""
    gpu = CATALOGUE[model]["gpu"]
    # ceil(context * kvKiBPerToken / 1024 / 0.9), in integer arithmetic.
    cache = -(-context * gpu["kvKiBPerToken"] * 10 // 9216)
    return int(gpu["weightsMiB"] + cache + RESERVED_MIB)
