"""Linear layers with packed weights."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.compat.torch import packed_linear
from app.engine.config import Dtype
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE
from app.engine.model_runner.packed_linear import PackedLinear, RowLimits, find_row_limits, gemm_dtypes, pack
from tests.support import tiny
from tests.support.requests import load

# (outputs, inputs) of the demo model's layers, and of mini's smallest.
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536), (3072, 3072)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compute_dtype", gemm_dtypes(), ids=str)
def test_packed_linear_computes_a_linear_layer(shape: tuple[int, int], compute_dtype: torch.dtype) -> None:
    weight, rows = torch.randn(shape) / shape[1] ** 0.5, torch.randn(3, 5, shape[1])
    linear = PackedLinear(weight, compute_dtype)(rows)
    exact = functional.linear(rows.to(compute_dtype).double(), weight.to(compute_dtype).double())
    assert linear.dtype == rows.dtype
    torch.testing.assert_close(linear.double(), exact, rtol=0, atol=2e-5 if compute_dtype == torch.float32 else 2e-2)


class Layer(torch.nn.Module):
    """The parts of a model that `find_row_limits` reads."""

    def __init__(self, shape: tuple[int, int], compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = torch.nn.ModuleList([PackedLinear(torch.randn(shape), compute_dtype)])
        self.lm_head = PackedLinear(torch.randn(16, 16), compute_dtype)


def row_limits(shape: tuple[int, int], compute_dtype: torch.dtype) -> RowLimits | None:
    return find_row_limits(cast(Phi3ForCausalLM, Layer(shape, compute_dtype)), compute_dtype, 32, 300)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compute_dtype", gemm_dtypes(), ids=str)
def test_row_has_the_same_bits_in_every_batch_within_the_limits(
    shape: tuple[int, int], compute_dtype: torch.dtype
) -> None:
    found = row_limits(shape, compute_dtype) or RowLimits(300, 256)
    linear = PackedLinear(torch.randn(shape) / shape[1] ** 0.5, compute_dtype)
    rows = torch.randn(300, shape[1])
    assert torch.equal(linear(rows[:1])[0], linear(rows[:2])[0])
    for counts in (range(2, found.max_decode_rows + 1), range(BLOCK_SIZE, found.max_prefill_rows + 1, BLOCK_SIZE)):
        least = counts[0]
        alone = torch.cat([linear(rows[start : start + least])[:1] for start in range(300 - least)])
        for count in counts:
            for place in {0, 1, len(alone) - count} & set(range(len(alone))):
                batch = linear(rows[place : place + count])
                known = alone[place : place + count]
                assert torch.equal(batch[: len(known)], known), (count, place)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_single_row_has_the_bits_that_it_has_in_a_batch(demo: Path, dtype: Dtype) -> None:
    model = load(demo, dtype, 512).model
    pack(model)
    for shape, linear in {
        module.shape: module for module in model.modules() if isinstance(module, PackedLinear)
    }.items():
        rows = torch.randn(30, shape[1]).to(model.dtype)
        assert torch.equal(torch.cat([linear(row[None]) for row in rows]), linear(rows))


def test_single_row_is_duplicated_if_its_kernel_rounds_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.golden()
    counts: set[int] = set()

    def otherwise(rows: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        counts.add(len(rows))
        product = packed_linear(rows, packed)
        return torch.nextafter(product, product + 1) if len(rows) == 1 else product

    monkeypatch.setattr("app.engine.model_runner.packed_linear.packed_linear", otherwise)
    pack(model)
    counts.clear()
    model.lm_head(torch.randn(1, model.config.hidden_size))
    assert counts == {2}


@pytest.mark.parametrize(
    ("other", "found"),
    [(range(0), None), (range(17, 999), RowLimits(16, 256)), (range(70, 999), RowLimits(32, 64))],
    ids=["never", "from 17 on", "from 70 on"],
)
def test_row_limits_end_where_the_order_of_sums_changes(
    monkeypatch: pytest.MonkeyPatch, other: range, found: RowLimits | None
) -> None:
    forward = PackedLinear.forward

    def otherwise(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        linear = forward(self, x)
        return torch.nextafter(linear, linear + 1) if len(x) in other else linear

    monkeypatch.setattr(PackedLinear, "forward", otherwise)
    assert row_limits((64, 32), torch.float32) == found


def test_pack_replaces_every_linear_layer_and_keeps_the_logits() -> None:
    model, packed = tiny.golden(), tiny.golden()
    assert pack(packed) == torch.float32
    assert not [module for module in packed.modules() if isinstance(module, torch.nn.Linear)]
    ids = torch.tensor([[1, 5, 17, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
