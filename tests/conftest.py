"""What every test needs, and a machine with a fake card, driver and TensorRT."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Files go to processes in the order below, and not those with the most tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: last, one of them would keep a single process busy."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the user's own cache of engines and decoded pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> None:
    """Programs that a test starts heed Ctrl-C: a shell that runs pytest with `&` has them not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _load_fakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("fakes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fakes() -> ModuleType:
    return _load_fakes()


def _forget_polygraphy() -> None:
    """Unloads it: it keeps to the TensorRT that was there when it was imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "polygraphy"]:
        del sys.modules[name]


@pytest.fixture
def machine(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SimpleNamespace]]:
    """Sets a machine up: the kind of TensorRT, and the arguments of `FakeDriver`.

    `kind=None` is one without TensorRT. What was set up has `driver` and `trt`.
    """
    from dtir_sdk.engines.tensorrt import cuda as cuda_module
    from dtir_sdk.engines.tensorrt import library as library_module

    def set_up(kind: str | None = "10.9", **options: Any) -> SimpleNamespace:
        driver = fakes.FakeDriver(**options)
        trt = None if kind is None else fakes.fake_tensorrt(driver, kind)
        present = {"cuda.bindings"}
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        if trt is not None:
            name = "tensorrt_rtx" if kind == "rtx" else "tensorrt"
            monkeypatch.setitem(sys.modules, name, trt)
            present.add(name)
        utils = SimpleNamespace(StridedMemoryView=fakes.StridedMemoryView)
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
        _forget_polygraphy()
        fakes.StridedMemoryView.streams.clear()
        return SimpleNamespace(driver=driver, trt=trt)

    yield set_up
    library_module.open_library.cache_clear()
    _forget_polygraphy()


@pytest.fixture
def into_closed_pipe() -> Callable[..., tuple[int, str]]:
    """Runs Python with the given words and nobody reading; returns exit code and stderr."""

    def run(*words: object) -> tuple[int, str]:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        os.close(writer)
        return done.returncode, done.stderr

    return run
