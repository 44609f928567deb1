"""How memory is divided."""

from pathlib import Path

import pytest
import torch
from transformers import Phi3ForCausalLM

from app.engine import memory
from app.engine.memory import GIB, Budget, budget, free_bytes
from app.engine.request import LoadError
from tests import tiny

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


def test_nothing_at_all_is_refused(model: Phi3ForCausalLM) -> None:
    with pytest.raises(LoadError, match="room for 0 tokens"):
        divide(model, 1000)


def test_a_machine_has_free_memory() -> None:
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


def test_a_control_group_bounds_it(tmp_path: Path) -> None:
    for name, content in {"max": "1000", "current": "700", "stat": "anon 600\ninactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory._free_in_group(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_group(tmp_path) > 2**60
    assert memory._free_in_group(tmp_path / "none") > 2**60
