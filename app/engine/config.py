"""Configuration of the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16"]

# Sequences at once: a step of 64 sequences takes a GPU about as long as a step of one; 32 take a CPU 2.5 times as long.
GPU_CONCURRENCY, CPU_CONCURRENCY = 64, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine serves and how much of the machine it uses.

    Attributes:
        model: directory with the checkpoint.
        dtype: of the weights; auto is bfloat16 on a GPU and the faster one on a CPU.
        max_context: tokens of prompt and output together; None is the model's maximum.
        adapters_dir: directory with a directory for each LoRA adapter to merge; None merges none.
        adapter_weights: scale of an adapter, by name; 1 unless given.
        max_concurrency: sequences at once; None is GPU_CONCURRENCY or CPU_CONCURRENCY.
        max_prefill_tokens: prompt tokens of a step.
        max_queue: requests that wait for slots.
        max_queue_tokens: tokens that those ask for; None is four times the KV cache.
        max_beam_tokens: beams times their length, for one request.
        memory_fraction: of the free memory; None is 0.9 on a GPU and 0.25 on a CPU.
        deterministic: whether to give each sequence its own pass if the machine is not batch-invariant.
        stall_seconds: time without a step, while there is work, after which the engine counts as stuck.
    """

    model: Path
    dtype: Dtype = "auto"
    max_context: int | None = None
    adapters_dir: Path | None = None
    adapter_weights: Mapping[str, float] = field(default_factory=dict)
    max_concurrency: int | None = None
    max_prefill_tokens: int = 256
    max_queue: int = 64
    max_queue_tokens: int | None = None
    max_beam_tokens: int = 131_072
    memory_fraction: float | None = None
    deterministic: bool = False
    stall_seconds: float = 300

    def concurrency_on(self, device_type: str) -> int:
        """Return the sequences at once on a device of this type."""
        return self.max_concurrency or (CPU_CONCURRENCY if device_type == "cpu" else GPU_CONCURRENCY)
