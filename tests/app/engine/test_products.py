"""Packed matrix products."""

import pytest
import torch
from torch.nn import functional

from app.engine.products import PackedLinear, pack
from tests import tiny

# (outputs, inputs) of the demo model's layers, and of mini's smallest.
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536), (3072, 3072)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_is_that_of_a_linear_layer(shape: tuple[int, int], computed: torch.dtype) -> None:
    weight, rows = torch.randn(shape) / shape[1] ** 0.5, torch.randn(3, 5, shape[1])
    product = PackedLinear(weight, computed)(rows)
    exact = functional.linear(rows.to(computed).double(), weight.to(computed).double())
    assert product.dtype == rows.dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=2e-5 if computed == torch.float32 else 2e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_is_the_same_in_any_company(shape: tuple[int, int], computed: torch.dtype) -> None:
    product = PackedLinear(torch.randn(shape) / shape[1] ** 0.5, computed)
    rows = torch.randn(300, shape[1])
    alone = product(rows[:1])[0]
    for count in (2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257, 300):
        for place in (0, count // 2, count - 1):
            company = rows[:count].clone()
            company[place] = rows[0]
            assert torch.equal(product(company)[place], alone), (count, place)


def test_every_linear_layer_of_a_model_is_packed_and_gives_what_it_gave() -> None:
    model, packed = tiny.golden(), tiny.golden()
    assert pack(packed) == torch.float32
    assert not [module for module in packed.modules() if isinstance(module, torch.nn.Linear)]
    ids = torch.tensor([[1, 5, 17, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
