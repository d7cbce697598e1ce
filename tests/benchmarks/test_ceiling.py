from __future__ import annotations

import numpy as np
import pytest
import torch
from ceiling import Arguments, Product, ceilings, main, products
from interleaved import measure

from dtir_sdk.errors import ConfigurationError, EngineError


def timed(milliseconds: float) -> dict[str, np.ndarray]:
    return {"product": np.array([milliseconds])}


def test_the_fastest_of_each_precision():
    made = [
        Product("slow", "f32", 1000, list),
        Product("fast", "f32", 2000, list),
        Product("only", "bf16", 1000, list),
    ]
    times = {made[0].name: timed(20), made[1].name: timed(80), made[2].name: timed(5)}
    found = ceilings(made, times)
    assert [*found] == ["f32", "bf16"]
    assert (found["f32"].library, found["f32"].side) == ("fast", 2000)
    assert found["f32"].gmacs == pytest.approx(100)  # 2000^3 in 80 ms
    assert found["bf16"].gmacs == pytest.approx(200)


def test_products_of_a_cpu():
    made = products("cpu", [64])
    assert {(product.library, product.precision) for product in made} == {
        ("torch", "f32"),
        ("torch", "bf16"),
        ("torch", "int8"),
        ("OpenVINO", "f32"),
        ("OpenVINO", "bf16"),
        ("OpenVINO", "int8"),
    }
    times = measure(
        {product.name: {"product": product.run} for product in made}, rounds=1, seconds=9
    )
    assert all(ceiling.gmacs > 0 for ceiling in ceilings(made, times).values())


def test_a_card_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"sees no NVIDIA GPU: leave out --device cuda"):
        products("cuda")


@pytest.mark.parametrize("sides", [(0,), (1024, -1), ()])
def test_matrices_without_a_side_are_refused(sides):
    with pytest.raises(ConfigurationError, match=r"sides is .*: it must be 1 or more"):
        main(Arguments(sides=sides))
