"""Engines through Polygraphy: with a fake TensorRT, and with the real TensorRT-RTX."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import get_args

import pytest

from dtir_export import polygraphy_compiler
from dtir_export.graphs import signature
from dtir_export.polygraphy_compiler import check_polygraphy, compile_with_polygraphy
from dtir_sdk.batches import BatchRange
from dtir_sdk.engines import Graph
from dtir_sdk.engines.tensorrt import BuildOptions, build_engine, open_library
from dtir_sdk.errors import ConfigurationError, EngineError
from dtir_sdk.manifest import ModelName

Machine = Callable[..., SimpleNamespace]

BATCHES = (BatchRange(1, 1, 1), BatchRange(2, 8, 16))


class Recorder:
    """A bar that notes what it is told."""

    def __init__(self) -> None:
        self.parts: list[float] = []

    def __enter__(self) -> Callable[[float], None]:
        return self.parts.append

    def __exit__(self, *_: object) -> None:
        pass


def make_graph(graphs: dict[str, bytes], model: ModelName = "transfer") -> Graph:
    return Graph(graphs[model], f"{model}.onnx", "fp32", signature(model, 32, 3), BATCHES)


def make_library_name(kind: str) -> str:
    return "tensorrt-rtx" if kind == "rtx" else "tensorrt"


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("kind", ["8.6.1", "10.9", "11.0", "rtx"])
def test_it_asks_for_what_the_sdk_asks_for(
    kind: str, tf32: bool, machine: Machine, graphs: dict[str, bytes]
) -> None:
    """An engine of one is kept under the key of the other: they must be the same."""
    fake = machine(kind)
    fake.driver.contexts.append(1)
    library = open_library(make_library_name(kind))
    options = BuildOptions(tf32=tf32, workspace=1 << 20)
    engines = [
        build_engine(library, make_graph(graphs), options, timings=b"timings", compiler=compiler)
        for compiler in (compile_with_polygraphy, None)
    ]
    assert engines[0] == engines[1]
    ours, theirs = (vars(build.config) for build in fake.trt.builds)
    compared = ("flags", "profiles", "pools", "previews", "timings", "profiling_verbosity")
    assert {name: ours[name] for name in compared} == {name: theirs[name] for name in compared}
    layers = [[layer.precision for layer in build.network.layers] for build in fake.trt.builds]
    assert layers[0] == layers[1]


def test_cards(machine: Machine, graphs: dict[str, bytes]) -> None:
    fake = machine("rtx", gpu=None)
    options = BuildOptions(compute_capabilities=("8.6", "8.9"))
    library = open_library("tensorrt-rtx")
    build_engine(library, make_graph(graphs), options, compiler=compile_with_polygraphy)
    (build,) = fake.trt.builds
    assert build.config.cards == {0: "sm86", 1: "sm89"}
    with pytest.raises(ConfigurationError, match=r"does not build for 6\.1"):
        build_engine(
            library,
            make_graph(graphs),
            BuildOptions(compute_capabilities=("6.1",)),
            compiler=compile_with_polygraphy,
        )


def test_a_damaged_timing_cache_is_replaced(machine: Machine, graphs: dict[str, bytes]) -> None:
    fake = machine("10.9")
    fake.driver.contexts.append(1)
    built = build_engine(
        open_library("tensorrt"),
        make_graph(graphs),
        timings=b"damaged",
        compiler=compile_with_polygraphy,
    )
    assert fake.trt.builds[0].config.timings == b""
    assert built.timings == b"timings 10.9"


def test_it_is_silent(
    machine: Machine, graphs: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """What it logs would be in the way of the bar and of the one line of an error."""
    fake = machine("rtx", gpu=None)
    library = open_library("tensorrt-rtx")
    recorder = Recorder()
    build_engine(library, make_graph(graphs), bar=recorder, compiler=compile_with_polygraphy)
    assert recorder.parts == sorted(recorder.parts)
    assert recorder.parts[-1] == 1.0
    fake.trt.refuses = "no kernel was found"
    with pytest.raises(EngineError, match=r"cannot build transfer\.onnx: no kernel was found$"):
        build_engine(library, make_graph(graphs), compiler=compile_with_polygraphy)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c(machine: Machine, graphs: dict[str, bytes]) -> None:
    machine("rtx", gpu=None)

    class Interrupting(Recorder):
        def __enter__(self) -> Callable[[float], None]:
            def report(part: float) -> None:
                self.parts.append(part)
                if len(self.parts) == 3:
                    os.kill(os.getpid(), signal.SIGINT)

            return report

    with pytest.raises(KeyboardInterrupt):
        build_engine(
            open_library("tensorrt-rtx"),
            make_graph(graphs),
            bar=Interrupting(),
            compiler=compile_with_polygraphy,
        )


def test_it_serves_one_library_in_a_process(
    machine: Machine, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("rtx", gpu=None)
    library = open_library("tensorrt-rtx")
    build_engine(library, make_graph(graphs), compiler=compile_with_polygraphy)
    monkeypatch.setattr("polygraphy.config.USE_TENSORRT_RTX", False)
    with pytest.raises(EngineError, match="was loaded for tensorrt, and serves one library"):
        build_engine(library, make_graph(graphs), compiler=compile_with_polygraphy)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_polygraphy()
    monkeypatch.setattr(polygraphy_compiler, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="pip install polygraphy"):
        check_polygraphy()


@pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason='tensorrt-rtx is not installed: pip install "dtir[tensorrt-rtx]"',
)
@pytest.mark.parametrize("model", get_args(ModelName))
def test_the_real_library(model: ModelName, graphs: dict[str, bytes]) -> None:
    recorder = Recorder()
    built = build_engine(
        open_library("tensorrt-rtx"),
        make_graph(graphs, model),
        BuildOptions(compute_capabilities=("8.6", "8.9")),
        bar=recorder,
        compiler=compile_with_polygraphy,
    )
    assert len(built.data) > 10_000
    assert recorder.parts == sorted(recorder.parts)
    assert recorder.parts[-1] == 1.0
