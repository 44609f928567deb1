"""How many tokens fit into memory: worked out once, at the start, so that no request runs out of it later."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import BLOCK, whole_blocks
from app.engine.request import LoadError
from app.engine.scheduler import PROMPT_TOKENS

GIB = 2**30
# Of the free memory, unless CHAT_MEMORY_SHARE says otherwise: a CPU's memory is used by others too.
GPU_SHARE, CPU_SHARE = 0.9, 0.25
# Of what is used, at most, for beam search, whose cache is its own.
BEAM_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Budget:
    """What the memory is used for.

    Attributes:
        free: bytes free when it was worked out.
        token_bytes: bytes of the keys and values of one token.
        tokens: places in the cache that all sequences share.
        beam_tokens: beams times their length, of a request that searches.
        context: tokens of prompt and answer together.
    """

    free: int
    token_bytes: int
    tokens: int
    beam_tokens: int
    context: int


def budget(
    model: Phi3ForCausalLM,
    context: int,
    *,
    asked_for: bool,
    concurrency: int,
    share: float | None,
    max_beam_tokens: int,
    free: int | None = None,
) -> Budget:
    """Divide the memory that is free.

    Args:
        model: loaded, on its device.
        context: tokens, what is wanted at most.
        asked_for: whether the operator set `context`, so that less is an error.
        concurrency: sequences at once; more cache than all of them can use is not taken.
        share: of the free memory that is used; None is the device's default.
        max_beam_tokens: tokens for beam search, at most.
        free: bytes; found out where None.

    Raises:
        LoadError: the context that was asked for, or a single token, does not fit.
    """
    config, size = model.config, model.dtype.itemsize
    head_dim = model.model.layers[0].self_attn.head_dim
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * size
    row_bytes = (4 * config.intermediate_size + 8 * config.hidden_size) * size
    gpu = model.device.type == "cuda"
    free = free_bytes(model.device) if free is None else free
    share = share or (GPU_SHARE if gpu else CPU_SHARE)
    # Scores are held several times over while tokens are chosen, twice of them in float64; the cache has a spare block,
    # and is rounded up to whole ones.
    steps = (PROMPT_TOKENS + concurrency) * row_bytes + concurrency * config.vocab_size * 32 + 2 * BLOCK * token_bytes
    usable = int(free * share) - steps
    # A search computes its prompt for every beam, and reorders one layer's cache at a time.
    beam_bytes = token_bytes * 5 // 4 + row_bytes
    # Where one whole context fits, beams take what it leaves.
    left = usable - context * token_bytes
    beam_room = min(int(usable * BEAM_SHARE), left if left >= 0 else usable)
    beam_tokens = max(0, min(max_beam_tokens, beam_room // beam_bytes))
    tokens = min((usable - beam_tokens * beam_bytes) // token_bytes, concurrency * whole_blocks(context))
    if tokens < (context if asked_for else 1):
        raise LoadError(
            f"A context of {context} tokens needs {context * token_bytes / GIB:.2f} GiB for keys and values, and there "
            f"is room for {max(tokens, 0)} tokens: of {free / GIB:.2f} GiB free {share:.0%} are used "
            f"(CHAT_MEMORY_SHARE), {steps / GIB:.2f} GiB of them for a step and "
            f"{beam_tokens * beam_bytes / GIB:.2f} GiB for beam search. Lower CHAT_MAX_CONTEXT, "
            "CHAT_MAX_CONCURRENCY or CHAT_MAX_BEAM_TOKENS, or give the server more memory."
        )
    return Budget(free, token_bytes, tokens, beam_tokens, min(context, tokens))


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on the GPU, or on this machine within what its control group may have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _free_in_group(Path("/sys/fs/cgroup")))


def _free_in_group(group: Path) -> int:
    """Bytes left to the control group that is mounted at `group`; page cache that can go counts as left."""
    names = ("max", "current", "inactive_file")
    if (group / "memory").is_dir():
        group, names = group / "memory", ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")  # version 1
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in names[:2])
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is no group, or it has no limit ("max")
        return 2**63
    return limit - used + int(statistics.get(names[2], 0))
