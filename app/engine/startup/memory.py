"""Plans the memory once, at startup, so that no request can run out of it later."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import Phi3ForCausalLM

from app.engine.exceptions import LoadError
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, round_up_to_block
from app.engine.kv_cache.storage import KVCacheShape

GIB = 2**30
# Fractions of the free memory that are used: other processes use a CPU's memory too.
GPU_FRACTION, CPU_FRACTION = 0.9, 0.25
# Maximum fraction of the used memory for beam search, which has a KV cache of its own.
BEAM_FRACTION = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """What the memory is planned for.

    Attributes:
        context: maximum tokens of prompt and output together.
        context_required: whether the operator set `context`, so a smaller one is an error.
        max_concurrency: sequences at once; the cache never exceeds what they can use.
        max_prefill_tokens: prompt tokens of a step.
        max_beam_tokens: maximum beam tokens.
        fraction: of the free memory; None is the device's default.
    """

    context: int
    context_required: bool
    max_concurrency: int
    max_prefill_tokens: int
    max_beam_tokens: int
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the memory is used for.

    Attributes:
        free: bytes free when the plan was made.
        token_bytes: bytes of the keys and values of one token.
        num_slots: tokens of the KV cache.
        beam_tokens: beams times their length, for one request.
        context: tokens of prompt and output together.
    """

    free: int
    token_bytes: int
    num_slots: int
    beam_tokens: int
    context: int


def plan_memory(model: Phi3ForCausalLM, request: MemoryRequest, free: int | None = None) -> MemoryPlan:
    """Plan the memory that is free next to the weights.

    Args:
        model: loaded, on its device.
        request: what is planned for.
        free: bytes; measured if None.

    Raises:
        LoadError: the required context, or a single token, does not fit.
    """
    config, size = model.config, model.dtype.itemsize
    free = free_bytes(model.device) if free is None else free
    fraction = request.fraction or (GPU_FRACTION if model.device.type == "cuda" else CPU_FRACTION)
    shape = KVCacheShape.of(model, 0)
    token_bytes = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * size
    # Activations of one row at their peak, in the MLP: gate and up, their halves as activated and as product (4 x
    # intermediate), next to residual, norm, queries, keys, values, attention and projections (8 x hidden at most).
    row_bytes = (4 * config.intermediate_size + 8 * config.hidden_size) * size
    # Sampling holds logits in up to four float32 copies (raw, processed, warped, probabilities) and two float64 ones
    # (probabilities, cumulative): 4 * 4 + 2 * 8 bytes.
    logits_bytes = 32 * config.vocab_size
    # The cache has a padding block, and is rounded up to whole ones.
    step_bytes = (
        (request.max_prefill_tokens + request.max_concurrency) * row_bytes
        + request.max_concurrency * logits_bytes
        + 2 * BLOCK_SIZE * token_bytes
    )
    usable = int(free * fraction) - step_bytes
    # A beam search computes its prompt for every beam at once. Reordering copies its cache layer by layer: a quarter
    # more covers one layer.
    beam_bytes = token_bytes * 5 // 4 + row_bytes
    # If one full context fits, beam search gets what is left; otherwise the cache is smaller than one context anyway.
    rest = usable - request.context * token_bytes
    beam_budget = min(int(usable * BEAM_FRACTION), rest if rest >= 0 else usable)
    beam_tokens = max(0, min(request.max_beam_tokens, beam_budget // beam_bytes))
    num_slots = min(
        (usable - beam_tokens * beam_bytes) // token_bytes,
        request.max_concurrency * round_up_to_block(request.context),
    )
    if num_slots < (request.context if request.context_required else 1):
        raise LoadError(
            f"A context of {request.context} tokens needs {request.context * token_bytes / GIB:.2f} GiB of KV cache, "
            f"but only {max(num_slots, 0)} tokens fit: the server uses {fraction:.0%} of {free / GIB:.2f} GiB free "
            f"(CHAT_MEMORY_SHARE), {step_bytes / GIB:.2f} GiB of that for a step and "
            f"{beam_tokens * beam_bytes / GIB:.2f} GiB for beam search. Lower CHAT_MAX_CONTEXT, "
            "CHAT_MAX_CONCURRENCY or CHAT_MAX_BEAM_TOKENS, or give the server more memory."
        )
    return MemoryPlan(free, token_bytes, num_slots, beam_tokens, min(request.context, num_slots))


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of the GPU, or of this machine within the limit of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _free_in_cgroup(Path("/sys/fs/cgroup")))


def _free_in_cgroup(group: Path) -> int:
    """Return the bytes left to the control group mounted at `group`; reclaimable page cache counts as free."""
    names = ("max", "current", "inactive_file")
    if (group / "memory").is_dir():
        group, names = group / "memory", ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")  # version 1
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in names[:2])
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return 2**63
    return limit - used + int(statistics.get(names[2], 0))
