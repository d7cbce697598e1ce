"""The builder: with a fake TensorRT, and with the real TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from dataclasses import replace
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.batches import BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Graph, Signature, Tensor
from dtir_sdk.engines.tensorrt import BuildOptions, build_engine, open_library
from dtir_sdk.engines.tensorrt.progress import Phases, TerminalBar
from dtir_sdk.errors import ConfigurationError, EngineError

CPU_CARDS = ("8.6", "8.9")


class Recorder:
    """A bar that notes what it is told."""

    def __init__(self) -> None:
        self.parts: list[float] = []
        self.gone = False

    def __enter__(self):
        return self.parts.append

    def __exit__(self, *_: object) -> None:
        self.gone = True


@pytest.fixture
def rtx(machine):
    """The fake TensorRT-RTX, which as the real one builds without a GPU."""
    return machine("rtx", gpu=None)


def test_profiles(rtx, transfer):
    build_engine(open_library("tensorrt-rtx"), transfer)
    (build,) = rtx.trt.builds
    assert build.config.profiles == [
        {"image": [[count, 32, 32, 3] for count in counts]} for counts in ((1, 1, 1), (2, 8, 16))
    ]
    assert build.config.pools == {"workspace": 1 << 30}
    assert "user-allocation" in build.config.flags


def test_options(rtx, transfer):
    options = BuildOptions(tf32=False, workspace=1 << 20, compute_capabilities=CPU_CARDS)
    graph = replace(transfer, batches=(BatchRange(4, 4, 4),))
    build_engine(open_library("tensorrt-rtx"), graph, options)
    (build,) = rtx.trt.builds
    assert build.config.profiles == [{"image": [[4, 32, 32, 3]] * 3}]
    assert build.config.cards == {0: "sm86", 1: "sm89"}
    assert "tf32" not in build.config.flags
    assert build.config.pools == {"workspace": 1 << 20}


def test_impossible_options():
    with pytest.raises(ConfigurationError):
        BuildOptions(workspace=0)


def test_cards_that_are_not_served(machine, transfer):
    machine("rtx", gpu=None)
    options = BuildOptions(compute_capabilities=("6.1",))
    with pytest.raises(ConfigurationError, match=r"does not build for 6\.1: it builds for SM86"):
        build_engine(open_library("tensorrt-rtx"), transfer, options)
    machine()
    with pytest.raises(ConfigurationError, match="tensorrt builds for the card that is there"):
        build_engine(open_library("tensorrt"), transfer, options)


@pytest.mark.usefixtures("rtx")
def test_progress(transfer):
    recorder = Recorder()
    build_engine(open_library("tensorrt-rtx"), transfer, bar=recorder)
    assert recorder.parts[0] == 1 / 8
    assert recorder.parts == sorted(recorder.parts)
    assert recorder.parts[-1] == 1.0
    assert recorder.gone


@pytest.mark.usefixtures("rtx")
def test_ctrl_c(transfer):
    """Python's own handler, as in a terminal: the build ends at its next step, then the caller."""
    steps = []

    class Interrupting(Recorder):
        def __enter__(self):
            def report(part: float) -> None:
                steps.append(part)
                if len(steps) == 3:
                    time.sleep(0.3)
                    os.kill(os.getpid(), signal.SIGINT)
                    # As long as the build is inside TensorRT, the main thread waits for it.
                    pressed.wait(10)

            return report

    pressed = threading.Event()
    former = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    bar = Interrupting()
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(open_library("tensorrt-rtx"), transfer, bar=bar)
    finally:
        signal.signal(signal.SIGINT, former)
    assert len(steps) < 10
    assert bar.gone
    assert [t.name for t in threading.enumerate() if t.name.startswith("dtir-build")] == []


def test_not_installed(machine):
    machine(None)
    with pytest.raises(EngineError, match=r'not installed: pip install "dtir\[tensorrt-rtx\]"'):
        open_library("tensorrt-rtx")


def test_library_that_does_not_load(machine, monkeypatch):
    machine("rtx")

    def fail(_: str) -> None:
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr("dtir_sdk.engines.tensorrt.library.import_module", fail)
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot be loaded \(libtensorrt_rtx"):
        open_library("tensorrt-rtx")


def test_bar_is_shown_on_a_terminal_only():
    for terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        with TerminalBar("building [transfer]", stream) as report:
            report(0.5)
        assert ("building [transfer]" in stream.getvalue()) is terminal


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "step", "finish"]),
            st.sampled_from("abc"),
            st.sampled_from([None, "a", "b"]),
            st.integers(-1, 9),
        )
    )
)
def test_phases_never_go_back(events):
    phases, last = Phases(), 0.0
    for what, name, parent, number in events:
        if what == "start" and name not in ("a", parent):
            phases.start(name, parent if name > (parent or "") else None, number)
        elif what == "step":
            part = phases.step(name, number)
            assert last <= part <= 1
            last = part
        else:
            phases.finish(name)


def bundled(name: str, output: Tensor) -> Graph:
    bundle = Bundle.open()
    size = bundle.manifest.image_size
    source = "image" if name == "transfer" else "transferred"
    return Graph(
        bundle.model(name),
        f"{name}.onnx",
        bundle.manifest.files[name].precision,
        Signature((Tensor(source, "uint8", (None, size, size, 3)),), (output,)),
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("name", ["transfer", "recognizer", "restorer"])
def test_the_real_library_builds_the_bundled_graphs(name):
    size = Bundle.open().manifest.image_size
    output = {
        "transfer": Tensor("transferred", "uint8", (None, size, size, 3)),
        "restorer": Tensor("restored", "uint8", (None, size, size, 3)),
        "recognizer": Tensor("probabilities", "float32", (None, 2)),
    }[name]
    recorder = Recorder()
    options = BuildOptions(compute_capabilities=CPU_CARDS)
    built = build_engine(open_library("tensorrt-rtx"), bundled(name, output), options, bar=recorder)
    assert len(built.data) > 1_000_000
    assert built.timings == b""
    assert recorder.parts == sorted(recorder.parts)
    assert recorder.parts[-1] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_real_library_names_what_it_cannot_read():
    graph = bundled("transfer", Tensor("transferred", "uint8", (None, 1, 1, 3)))
    damaged = Graph(graph.data[: len(graph.data) // 2], "cut.onnx", "fp32", graph.signature)
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot read cut\.onnx: "):
        build_engine(open_library("tensorrt-rtx"), damaged)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_real_library_obeys_ctrl_c():
    size = Bundle.open().manifest.image_size
    graph = bundled("transfer", Tensor("transferred", "uint8", (None, size, size, 3)))
    steps = []

    class Interrupting(Recorder):
        def __enter__(self):
            def report(part: float) -> None:
                steps.append(part)
                if len(steps) == 20:
                    os.kill(os.getpid(), signal.SIGINT)

            return report

    with pytest.raises(KeyboardInterrupt):
        build_engine(open_library("tensorrt-rtx"), graph, bar=Interrupting())
    assert max(steps) < 1
