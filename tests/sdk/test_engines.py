from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper

from dtir_sdk import engines
from dtir_sdk.engines import Graph, Signature, Tensor, choose, load
from dtir_sdk.engines import onnxruntime as ort_engine
from dtir_sdk.engines import openvino as openvino_engine
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError

ENGINES = ("openvino", "onnxruntime")


@pytest.fixture
def graph(tiny) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.inverter(),
        "transfer.onnx",
        "fp32",
        Signature((Tensor("image", "uint8", side),), (Tensor("transferred", "uint8", side),)),
    )


@pytest.fixture
def absent(monkeypatch):
    """Makes a package look as if it were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        for module in (openvino_engine, ort_engine):
            find = module.find_spec
            monkeypatch.setattr(
                module, "find_spec", lambda name, find=find: None if name in names else find(name)
            )

    return hide


def test_the_cpu_default_is_openvino():
    choice = choose(device="cpu")
    assert (choice.engine, choice.device) == ("openvino", "cpu")
    assert choice.reason == "asked for cpu"


def test_auto_says_why():
    choice = choose()
    assert choice.reason.startswith("the best that works here")


def test_asked_for_by_name():
    assert choose("onnxruntime", "cpu").reason == "asked for onnxruntime on cpu"


def test_next_best(absent):
    absent("openvino")
    choice = choose(device="cpu")
    assert choice.engine == "onnxruntime"
    assert "openvino is not installed" in choice.reason


@pytest.mark.parametrize(
    ("name", "command"),
    [("openvino", "pip install openvino"), ("onnxruntime", r'pip install "dtir\[onnxruntime\]"')],
)
def test_asked_for_and_not_installed(absent, name, command):
    absent(name)
    with pytest.raises(EngineError, match=command):
        choose(name, "cpu")


def test_none_installed(absent):
    absent(*ENGINES)
    with pytest.raises(EngineError, match=r"openvino is not installed.*onnxruntime is not"):
        choose()


def test_cuda_asked_for_and_absent(absent):
    absent("onnxruntime")
    for engine in ("auto", "onnxruntime"):
        with pytest.raises(EngineError, match=r'pip install "dtir\[cuda\]"'):
            choose(engine, "cuda")


def test_cuda_in_an_onnxruntime_without_it(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r'has no CUDA: .*pip install "dtir\[cuda\]"'):
        choose("onnxruntime", "cuda")


def test_cuda_that_does_not_start(monkeypatch):
    """What a machine with the wheel but without a driver gives: a session on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = SimpleNamespace(run=lambda *_: None, get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort_engine, "_session", lambda *_, **__: session)
    with pytest.raises(EngineError, match=r'cannot start CUDA here: .*"dtir\[cuda\]"'):
        choose("onnxruntime", "cuda")
    assert "cannot start CUDA" in choose().reason


def test_cuda_that_works_comes_first(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = SimpleNamespace(run=lambda *_: None, get_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort_engine, "_session", lambda *_, **__: session)
    assert choose().device == "cuda"
    assert choose().reason == "the best that works here"


def test_smallest_model_runs():
    session = ort_engine._session(ort_engine._SMALLEST_MODEL, "cpu", None)
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("engine", "device", "words"),
    [
        ("tensorflow", "auto", "no engine is called 'tensorflow'"),
        ("auto", "tpu", "no device is called 'tpu'"),
        ("openvino", "cuda", "openvino does not run on cuda"),
    ],
)
def test_unknown_names(engine, device, words):
    with pytest.raises(EngineError, match=words):
        choose(engine, device)


def test_problems():
    found = engines.problems()
    assert list(found) == ["onnxruntime on cuda", "openvino on cpu", "onnxruntime on cpu"]
    assert found["openvino on cpu"] is None


@pytest.mark.parametrize("name", ENGINES)
def test_infers(graph, name):
    engine = load(graph, choose(name, "cpu"))
    assert engine.signature == graph.signature
    assert engine.info.engine == name
    rng = np.random.default_rng(0)
    for count in (1, 3, 1, 2):
        batch = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        assert np.array_equal(engine.infer(batch), 255 - batch)


@pytest.mark.parametrize("name", ENGINES)
def test_output_is_the_callers_own(graph, name):
    engine = load(graph, choose(name, "cpu"))
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    first = engine.infer(batch)
    first[:] = 7
    second = engine.infer(batch)
    assert (first == 7).all()
    assert (second == 255).all()
    engine.close()
    assert (second == 255).all()


@pytest.mark.parametrize("name", ENGINES)
def test_closed(graph, name):
    engine = load(graph, choose(name, "cpu"))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("name", ENGINES)
def test_failure_while_running(graph, name):
    engine = load(graph, choose(name, "cpu"))
    with pytest.raises(EngineError, match=f"{name} failed on a batch of 1"):
        engine.infer(np.zeros((1, 31, 32, 3), np.uint8))
    assert engine.infer(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ENGINES)
def test_wrong_signature(graph, tiny, name):
    wrong = [
        tiny.inverter("picture"),
        tiny.inverter(target="cartoon"),
        tiny.inverter(size=16),
        tiny.reader(),
    ]
    for data in wrong:
        with pytest.raises(BundleError, match=r"transfer\.onnx has the signature"):
            load(Graph(data, "transfer.onnx", "fp32", graph.signature), choose(name, "cpu"))


@pytest.mark.parametrize("name", ENGINES)
def test_fixed_batch_is_a_wrong_signature(graph, name, tiny):
    values = [
        [helper.make_tensor_value_info(value, TensorProto.UINT8, [1, 32, 32, 3])]
        for value in ("image", "transferred")
    ]
    data = tiny.model([helper.make_node("Identity", ["image"], ["transferred"])], *values)
    with pytest.raises(BundleError, match=r"image uint8 \[1,32,32,3\]"):
        load(Graph(data, "t.onnx", "fp32", graph.signature), choose(name, "cpu"))


@pytest.mark.parametrize("name", ENGINES)
def test_graph_that_cannot_be_loaded(graph, name):
    with pytest.raises(EngineError, match=f"{name} cannot load transfer.onnx"):
        load(Graph(b"nonsense", "transfer.onnx", "fp32", graph.signature), choose(name, "cpu"))


@pytest.mark.parametrize("name", ENGINES)
def test_not_a_number(tiny, name):
    side = (None, tiny.size, tiny.size, 3)
    signature = Signature(
        (Tensor("transferred", "uint8", side),), (Tensor("probabilities", "float32", (None, 2)),)
    )
    graph = Graph(tiny.reader("Log"), "recognizer.onnx", "fp32", signature)
    engine = load(graph, choose(name, "cpu"))
    with pytest.raises(EngineError, match="not finite"):
        engine.infer(np.full((1, 32, 32, 3), 9, np.uint8))


def test_precisions(graph):
    assert load(graph, choose("openvino"), "f32").info.precision == "f32"
    assert load(graph, choose("onnxruntime", "cpu"), "f32").info.precision == "fp32"
    with pytest.raises(EngineError, match="not in bf16"):
        load(graph, choose("onnxruntime", "cpu"), "bf16")
    half = Graph(graph.data, graph.file, "fp16", graph.signature)
    with pytest.raises(EngineError, match="not in f32"):
        load(half, choose("onnxruntime", "cpu"), "f32")


def test_bf16_on_a_cpu_without_it(graph, monkeypatch):
    class Core(openvino.Core):
        def get_property(self, device, name):
            if name == "OPTIMIZATION_CAPABILITIES":
                return ["FP32"]
            return super().get_property(device, name)

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(EngineError, match="does not compute bf16"):
        load(graph, choose("openvino"), "bf16")
    assert load(graph, choose("openvino"), "auto").info.precision == "f32"


@pytest.mark.parametrize("name", ENGINES)
def test_threads(graph, name):
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    assert (load(graph, choose(name, "cpu"), threads=1).infer(batch) == 255).all()


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": -1}, {"precision": "fp16"}, {"precision": ""}]
)
def test_wrong_options(graph, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load(graph, choose("openvino"), **options)
