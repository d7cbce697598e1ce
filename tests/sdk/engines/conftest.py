"""A machine with a fake card, driver and TensorRT."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dtir_sdk.engines import Graph, Signature, Tensor
from dtir_sdk.engines.tensorrt import cuda as cuda_module
from dtir_sdk.engines.tensorrt import library as library_module


def _load_fakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("fakes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_FAKES = _load_fakes()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine cache: a folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DTIR_CACHE", str(folder))
    return folder


@pytest.fixture
def fakes() -> ModuleType:
    return _FAKES


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Sets a machine up: the kind of TensorRT, and the arguments of `FakeDriver`.

    `kind=None` is one without TensorRT. What was set up has `driver` and `trt`.
    """

    def set_up(kind: str | None = "10.9", **options: Any) -> SimpleNamespace:
        driver = _FAKES.FakeDriver(**options)
        trt = None if kind is None else _FAKES.fake_tensorrt(driver, kind)
        present = {"cuda.bindings"}
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        if trt is not None:
            name = "tensorrt_rtx" if kind == "rtx" else "tensorrt"
            monkeypatch.setitem(sys.modules, name, trt)
            present.add(name)
        utils = SimpleNamespace(StridedMemoryView=_FAKES.StridedMemoryView)
        for name, module in {
            "cuda": SimpleNamespace(__path__=[]),
            "cuda.bindings": SimpleNamespace(driver=driver),
            "cuda.core": SimpleNamespace(__path__=[], utils=utils),
            "cuda.core.utils": utils,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)
        for module in (cuda_module, library_module):
            monkeypatch.setattr(module, "find_spec", lambda name: name in present or None)
        monkeypatch.setattr(cuda_module, "_DRIVER_FILE", Path("no/such/file"))
        library_module.open_library.cache_clear()
        _FAKES.StridedMemoryView.streams.clear()
        return SimpleNamespace(driver=driver, trt=trt)

    yield set_up
    library_module.open_library.cache_clear()


@pytest.fixture
def transfer(tiny: SimpleNamespace) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.inverter(),
        "transfer.onnx",
        "fp32",
        Signature((Tensor("image", "uint8", side),), (Tensor("transferred", "uint8", side),)),
    )


@pytest.fixture
def recognizer(tiny: SimpleNamespace) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.reader(),
        "recognizer.onnx",
        "fp32",
        Signature(
            (Tensor("transferred", "uint8", side),),
            (Tensor("probabilities", "float32", (None, 2)),),
        ),
    )
