"""The catalogue of models, and the GPU memory that it says a model needs."""

from typing import Any

import yaml

from tests.charts.helm import ROOT

# Minimum GPU memory that CUDA, its kernels and one step take, in MiB.
RESERVED_MIB = 1536

CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "checkpoints/catalogue.yaml").read_text())["models"]


def min_gpu_memory_mib(model: str, context: int) -> int:
    """Return the MiB of GPU memory that a model needs for a context, by the formula in the catalogue's header."""
    gpu = CATALOGUE[model]["gpu"]
    # 0.9 of the free memory goes to the KV cache: ceil(context * KiB / 1024 / 0.9), in integers.
    return int(gpu["weightsMiB"] - (-context * gpu["kvKiBPerToken"] * 10 // 9216) + RESERVED_MIB)
