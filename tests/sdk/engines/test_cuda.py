"""The card, its context and its errors, on a fake driver."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dtir_sdk.engines import choose, load
from dtir_sdk.engines.tensorrt import cuda as cuda_module
from dtir_sdk.engines.tensorrt.cuda import Cuda, Gpu, PinnedArray, look
from dtir_sdk.errors import EngineError

VERSION = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build
GCC version:  gcc version 12.3.0
"""


def test_what_the_card_is(machine, monkeypatch, tmp_path):
    machine(gpu="NVIDIA Test 2", capability=(12, 0), offers=12080)
    assert look() == Gpu("NVIDIA Test 2", (12, 0), (12, 8), "unknown")
    file = tmp_path / "version"
    monkeypatch.setattr(cuda_module, "_DRIVER_FILE", file)
    file.write_text(VERSION)
    assert look().driver_version == "580.65.06"
    file.write_text("something else")
    assert look().driver_version == "unknown"


def test_looking_holds_nothing(machine):
    fake = machine()
    look()
    assert fake.driver.leftovers() == {}


@pytest.mark.parametrize(("capability", "slow"), [((6, 1), True), ((6, 0), False), ((8, 9), False)])
def test_slow_half(machine, capability, slow):
    machine(capability=capability)
    assert look().slow_half is slow


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("CUDA_ERROR_NO_DEVICE", "no NVIDIA GPU is here: install the NVIDIA driver"),
        ("CUDA_ERROR_STUB_LIBRARY", "no NVIDIA GPU is here: install the NVIDIA driver"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "do not fit together: restart the machine"),
        ("CUDA_ERROR_INVALID_VALUE", "CUDA failed in cuInit with CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_driver_that_does_not_start(machine, status, words):
    fake = machine()
    fake.driver.refuses["cuInit"] = fake.driver.CUresult[status]
    with pytest.raises(EngineError, match=words):
        Cuda()
    with pytest.raises(EngineError, match=words.split(":")[0]):
        choose("tensorrt")


def test_no_bindings(machine, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="not installed: pip install cuda-bindings cuda-core"):
        Cuda()
    monkeypatch.setattr(cuda_module, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match="not installed: pip install cuda-bindings cuda-core"):
        choose("tensorrt")


@pytest.mark.parametrize(
    "function", ["cuStreamCreate", "cuEventCreate", "cuMemHostAlloc", "cuMemAlloc"]
)
def test_what_fails_on_the_way_leaves_nothing(machine, transfer, function):
    fake = machine()
    fake.driver.refuses[function] = fake.driver.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(EngineError, match=f"CUDA failed in {function}"):
        load(transfer, choose("tensorrt"))
    assert fake.driver.leftovers() == {}


def test_context_is_current_inside_only(machine):
    fake = machine()
    cuda = Cuda()
    with pytest.raises(EngineError, match="CUDA_ERROR_INVALID_CONTEXT"):
        cuda.driver("cuMemAlloc", 1)
    with pytest.raises(ZeroDivisionError), cuda.active():
        raise ZeroDivisionError
    assert fake.driver.contexts == []
    cuda.close()
    cuda.close()
    assert fake.driver.leftovers() == {}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pinned_array(machine, dtype):
    fake = machine()
    cuda = Cuda()
    with cuda.active():
        pinned = PinnedArray(cuda, (2, 3, 4), dtype)
        pinned.array[:] = np.arange(24).reshape(2, 3, 4)
        assert (pinned.array.dtype, pinned.array.ctypes.data) == (dtype, pinned.address)
        pinned.free()
    cuda.close()
    assert fake.driver.leftovers() == {}
