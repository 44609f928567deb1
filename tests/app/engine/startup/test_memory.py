"""How memory is divided."""

import bisect
import functools
import math
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Phi3Config, Phi3ForCausalLM

from app.engine.request import LoadError
from app.engine.startup import memory
from app.engine.startup.memory import GIB, Budget, budget, free_bytes
from app.settings import GPU_CONCURRENCY
from tests.support import tiny
from tools.harness.dimensions import SIZES

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head dim, float32


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def divide(model: Phi3ForCausalLM, free: int, context: int = 128, asked_for: bool = False) -> Budget:
    return budget(model, context, asked_for=asked_for, concurrency=4, share=0.5, max_beam_tokens=1000, free=free)


def test_no_more_is_taken_than_all_sequences_can_use(model: Phi3ForCausalLM) -> None:
    divided = divide(model, GIB)
    assert (divided.token_bytes, divided.tokens, divided.context) == (TOKEN_BYTES, 4 * 128, 128)
    assert divided.beam_tokens == 1000


def test_what_is_given_out_is_within_the_share(model: Phi3ForCausalLM) -> None:
    for free in range(1_500_000, 3_000_000, 100_000):
        divided = divide(model, free)
        assert divided.tokens * TOKEN_BYTES + divided.beam_tokens * TOKEN_BYTES < free / 2


def test_a_context_that_was_not_asked_for_shrinks_to_what_fits(model: Phi3ForCausalLM) -> None:
    divided = divide(model, 2_000_000, context=100_000)
    assert 0 < divided.context == divided.tokens < 100_000


def test_a_context_that_was_asked_for_and_does_not_fit_is_refused_with_the_numbers(model: Phi3ForCausalLM) -> None:
    with pytest.raises(LoadError, match=r"100000 tokens needs 0\.02 GiB .* 50% .*CHAT_MEMORY_SHARE.*CHAT_MAX_CONTEXT"):
        divide(model, 2_000_000, context=100_000, asked_for=True)


def test_a_whole_context_comes_before_beams(model: Phi3ForCausalLM) -> None:
    least = bisect.bisect_left(range(9_000_000), True, key=functools.partial(fits, model))
    divided = divide(model, least, context=5000)
    assert (divided.tokens, divided.context, divided.beam_tokens) == (5000, 5000, 0)
    assert divide(model, 2 * least, context=5000).beam_tokens > 0


def fits(model: Phi3ForCausalLM, free: int) -> bool:
    try:
        return divide(model, free, context=5000, asked_for=True).context == 5000
    except LoadError:
        return False


CATALOGUE = yaml.safe_load((Path(__file__).parents[4] / "images/catalogue.yaml").read_text())["models"]
# What CUDA and its kernels take of a GPU before the server asks what is free.
CUDA = 1024


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_gpu_that_the_catalogue_finds_large_enough_is(name: str) -> None:
    entry = CATALOGUE[name]
    with torch.device("meta"):
        model = Phi3ForCausalLM(Phi3Config(**SIZES[name.split("-")[0]])).to(torch.bfloat16)
    weights = sum(weight.numel() * weight.itemsize for weight in model.parameters())
    assert math.ceil(weights / 2**20) == entry["gpu"]["weights"]
    for context in (entry["context"], entry["context"] // 4):
        floor = entry["gpu"]["weights"] + math.ceil(context * entry["gpu"]["token"] / 1024 / 0.9) + 1536
        free = (floor - CUDA) * 2**20 - weights
        divided = budget(
            model, context, asked_for=True, concurrency=GPU_CONCURRENCY, share=0.9, max_beam_tokens=131_072, free=free
        )
        assert divided.context == context
        assert divided.token_bytes == entry["gpu"]["token"] * 1024


def test_nothing_at_all_is_refused(model: Phi3ForCausalLM) -> None:
    with pytest.raises(LoadError, match="room for 0 tokens"):
        divide(model, 1000)


def test_a_machine_has_free_memory() -> None:
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


def test_a_control_group_bounds_it(tmp_path: Path) -> None:
    for name, content in {"max": "1000", "current": "700", "stat": "anon 600\ninactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory._free_in_group(tmp_path) == 350
    old = tmp_path / "old/memory"
    old.mkdir(parents=True)
    for name, content in {"limit_in_bytes": "900", "usage_in_bytes": "700", "stat": "total_inactive_file 50\n"}.items():
        (old / f"memory.{name}").write_text(content)
    assert memory._free_in_group(old.parent) == 250
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_group(tmp_path) > 2**60
    assert memory._free_in_group(tmp_path / "none") > 2**60
