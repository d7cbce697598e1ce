"""Which arithmetic `auto` is."""

import pytest
import torch

from dtir_train import arithmetic as module
from dtir_train.arithmetic import arithmetic


@pytest.fixture
def machine(monkeypatch):
    """A machine whose CPU and GPU (None: there is none) compute bf16 or not."""

    def of(cpu: bool, gpu: bool | None = None) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return including_emulation or bool(gpu)

        monkeypatch.setattr(module, "capabilities", lambda: ("FP32", *["BF16"] * cpu))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    return of


@pytest.mark.parametrize(("computes", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_trains_in_bf16_where_it_computes_it(machine, computes, expected):
    machine(cpu=computes)
    assert arithmetic() == expected


@pytest.mark.parametrize(("computes", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_trains_in_bf16_where_it_does_not_emulate_it(machine, computes, expected):
    machine(cpu=not computes, gpu=computes)
    assert arithmetic() == expected
    assert arithmetic(device="cpu") != expected


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("computes", [True, False])
def test_a_precision_that_was_asked_for_is_kept(machine, precision, computes):
    machine(cpu=computes)
    assert arithmetic(precision) == precision
