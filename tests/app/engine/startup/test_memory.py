"""The memory plan."""

import bisect
import functools
import math
from pathlib import Path

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from app.engine.config import GPU_CONCURRENCY
from app.engine.exceptions import LoadError
from app.engine.startup import memory
from app.engine.startup.memory import GIB, MemoryPlan, MemoryRequest, free_bytes, plan_memory
from tests.charts.catalogue import CATALOGUE, min_gpu_memory_mib
from tests.support import tiny
from tests.support.engine import MAX_PREFILL_TOKENS
from tools.harness.dimensions import SIZES

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head dim, float32


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def plan(model: Phi3ForCausalLM, free: int, context: int = 128, required: bool = False) -> MemoryPlan:
    request = MemoryRequest(
        context=context,
        context_required=required,
        max_concurrency=4,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
        max_beam_tokens=1000,
        fraction=0.5,
    )
    return plan_memory(model, request, free)


def test_kv_cache_is_no_larger_than_all_sequences_can_use(model: Phi3ForCausalLM) -> None:
    planned = plan(model, GIB)
    assert (planned.token_bytes, planned.num_slots, planned.context) == (TOKEN_BYTES, 4 * 128, 128)
    assert planned.beam_tokens == 1000


def test_memory_plan_stays_within_the_memory_fraction(model: Phi3ForCausalLM) -> None:
    for free in range(1_500_000, 3_000_000, 100_000):
        planned = plan(model, free)
        assert planned.num_slots * TOKEN_BYTES + planned.beam_tokens * TOKEN_BYTES < free / 2


def test_default_context_shrinks_to_the_memory(model: Phi3ForCausalLM) -> None:
    planned = plan(model, 2_000_000, context=100_000)
    assert 0 < planned.context == planned.num_slots < 100_000


def test_required_context_that_does_not_fit_raises_with_the_numbers(model: Phi3ForCausalLM) -> None:
    with pytest.raises(LoadError, match=r"100000 tokens needs 0\.02 GiB .* 50% .*CHAT_MEMORY_SHARE.*CHAT_MAX_CONTEXT"):
        plan(model, 2_000_000, context=100_000, required=True)


def test_full_context_has_priority_over_beam_search(model: Phi3ForCausalLM) -> None:
    least = bisect.bisect_left(range(9_000_000), True, key=functools.partial(fits, model))
    planned = plan(model, least, context=5000)
    assert (planned.num_slots, planned.context, planned.beam_tokens) == (5000, 5000, 0)
    assert plan(model, 2 * least, context=5000).beam_tokens > 0


def fits(model: Phi3ForCausalLM, free: int) -> bool:
    try:
        return plan(model, free, context=5000, required=True).context == 5000
    except LoadError:
        return False


# What CUDA and its kernels take of a GPU before the server asks what is free.
CUDA = 1024


@pytest.mark.parametrize("name", CATALOGUE)
def test_minimum_gpu_of_the_catalogue_holds_the_context(name: str) -> None:
    entry = CATALOGUE[name]
    with torch.device("meta"):
        model = Phi3ForCausalLM(Phi3Config(**SIZES[name.split("-")[0]])).to(torch.bfloat16)
    weights = sum(weight.numel() * weight.itemsize for weight in model.parameters())
    assert math.ceil(weights / 2**20) == entry["gpu"]["weightsMiB"]
    for context in (entry["context"], entry["context"] // 4):
        free = (min_gpu_memory_mib(name, context) - CUDA) * 2**20 - weights
        request = MemoryRequest(
            context=context,
            context_required=True,
            max_concurrency=GPU_CONCURRENCY,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
            max_beam_tokens=131_072,
            fraction=0.9,
        )
        planned = plan_memory(model, request, free)
        assert planned.context == context
        assert planned.token_bytes == entry["gpu"]["kvKiBPerToken"] * 1024


def test_memory_plan_without_memory_raises(model: Phi3ForCausalLM) -> None:
    with pytest.raises(LoadError, match="only 0 tokens fit"):
        plan(model, 1000)


def test_free_bytes_of_this_machine_are_plausible() -> None:
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


def test_control_group_limits_the_free_bytes(tmp_path: Path) -> None:
    for name, content in {"max": "1000", "current": "700", "stat": "anon 600\ninactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory._free_in_cgroup(tmp_path) == 350
    old = tmp_path / "old/memory"
    old.mkdir(parents=True)
    for name, content in {"limit_in_bytes": "900", "usage_in_bytes": "700", "stat": "total_inactive_file 50\n"}.items():
        (old / f"memory.{name}").write_text(content)
    assert memory._free_in_cgroup(old.parent) == 250
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_cgroup(tmp_path) > 2**60
    assert memory._free_in_cgroup(tmp_path / "none") > 2**60
