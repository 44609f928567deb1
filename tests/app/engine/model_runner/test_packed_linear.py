"""Packed matrix products."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from app.engine.kv_cache import BLOCK
from app.engine.model_runner.packed_linear import Division, PackedLinear, division, pack, types
from app.engine.startup.load import load
from app.settings import Dtype
from tests.support import tiny

# (outputs, inputs) of the demo model's layers, and of mini's smallest.
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536), (3072, 3072)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("computed", types(), ids=str)
def test_a_product_is_that_of_a_linear_layer(shape: tuple[int, int], computed: torch.dtype) -> None:
    weight, rows = torch.randn(shape) / shape[1] ** 0.5, torch.randn(3, 5, shape[1])
    product = PackedLinear(weight, computed)(rows)
    exact = functional.linear(rows.to(computed).double(), weight.to(computed).double())
    assert product.dtype == rows.dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=2e-5 if computed == torch.float32 else 2e-2)


class Layer(torch.nn.Module):
    """As much of a model as `division` looks at."""

    def __init__(self, shape: tuple[int, int], computed: torch.dtype) -> None:
        super().__init__()
        self.model = torch.nn.ModuleList([PackedLinear(torch.randn(shape), computed)])
        self.lm_head = PackedLinear(torch.randn(16, 16), computed)


def divided(shape: tuple[int, int], computed: torch.dtype) -> Division | None:
    return division(cast(Phi3ForCausalLM, Layer(shape, computed)), computed, 32, 300)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("computed", types(), ids=str)
def test_a_row_is_the_same_in_any_company_that_the_division_allows(
    shape: tuple[int, int], computed: torch.dtype
) -> None:
    found = divided(shape, computed) or Division(300, 256)
    product = PackedLinear(torch.randn(shape) / shape[1] ** 0.5, computed)
    rows = torch.randn(300, shape[1])
    assert torch.equal(product(rows[:1])[0], product(rows[:2])[0])
    for counts in (range(2, found.few + 1), range(BLOCK, found.many + 1, BLOCK)):
        least = counts[0]
        alone = torch.cat([product(rows[start : start + least])[:1] for start in range(300 - least)])
        for count in counts:
            for place in {0, 1, len(alone) - count} & set(range(len(alone))):
                company = product(rows[place : place + count])
                known = alone[place : place + count]
                assert torch.equal(company[: len(known)], known), (count, place)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lone_row_is_what_it_is_in_company(demo: Path, dtype: Dtype) -> None:
    model = load(demo, dtype, 512).model
    pack(model)
    for shape, product in {
        module.shape: module for module in model.modules() if isinstance(module, PackedLinear)
    }.items():
        rows = torch.randn(30, shape[1]).to(model.dtype)
        assert torch.equal(torch.cat([product(row[None]) for row in rows]), product(rows))


def test_a_lone_row_is_computed_twice_where_it_would_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.golden()
    counts: set[int] = set()
    multiply = torch.ops.mkldnn._linear_pointwise

    def otherwise(rows: torch.Tensor, *args: object) -> torch.Tensor:
        counts.add(len(rows))
        product: torch.Tensor = multiply(rows, *args)
        return torch.nextafter(product, product + 1) if len(rows) == 1 else product

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", otherwise)
    pack(model)
    counts.clear()
    model.lm_head(torch.randn(1, model.config.hidden_size))
    assert counts == {2}


@pytest.mark.parametrize(
    ("other", "found"),
    [(range(0), None), (range(17, 999), Division(16, 256)), (range(70, 999), Division(32, 64))],
    ids=["never", "from 17 on", "from 70 on"],
)
def test_another_order_of_summing_is_found(
    monkeypatch: pytest.MonkeyPatch, other: range, found: Division | None
) -> None:
    forward = PackedLinear.forward

    def otherwise(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        product = forward(self, x)
        return torch.nextafter(product, product + 1) if len(x) in other else product

    monkeypatch.setattr(PackedLinear, "forward", otherwise)
    assert divided((64, 32), torch.float32) == found


def test_every_linear_layer_of_a_model_is_packed_and_gives_what_it_gave() -> None:
    model, packed = tiny.golden(), tiny.golden()
    assert pack(packed) == torch.float32
    assert not [module for module in packed.modules() if isinstance(module, torch.nn.Linear)]
    ids = torch.tensor([[1, 5, 17, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
