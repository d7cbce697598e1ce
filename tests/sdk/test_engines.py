from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dtir_sdk import engines
from dtir_sdk.engines import Graph, Signature, Tensor, choose, load, load_chain
from dtir_sdk.engines import onnxruntime as ort_engine
from dtir_sdk.engines import openvino as openvino_engine
from dtir_sdk.engines.tensorrt import library as tensorrt_library
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError

OWN_CORE = openvino_engine.core()

ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """The engine cache: a folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DTIR_CACHE", str(folder))
    return folder


@pytest.fixture
def graph(tiny) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.inverter(),
        "transfer.onnx",
        "fp32",
        Signature((Tensor("image", "uint8", side),), (Tensor("transferred", "uint8", side),)),
    )


def reading(tiny) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    signature = Signature(
        (Tensor("transferred", "uint8", side),), (Tensor("probabilities", "float32", (None, 2)),)
    )
    return Graph(tiny.reader(), "recognizer.onnx", "fp32", signature)


@pytest.fixture
def absent(monkeypatch):
    """Makes a package look as if it were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        for module in (openvino_engine, ort_engine, tensorrt_library):
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


def test_an_onnxruntime_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    told = r"onnxruntime cannot be loaded \(libcudart: no such file\)"
    assert choose().engine == "openvino"
    assert re.search(told, choose().reason)
    assert re.search(told, str(engines.problems()["onnxruntime on cpu"]))
    for device in ("cpu", "cuda"):
        with pytest.raises(EngineError, match=told):
            choose("onnxruntime", device)


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
    assert choose().reason.startswith("the best that works here")
    assert "onnxruntime" not in choose().reason


def test_smallest_model_runs():
    session = ort_engine._session(ort_engine._SMALLEST_MODEL, "cpu", None)
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("engine", "device", "words"),
    [
        ("tensorflow", "auto", "no engine is called 'tensorflow'"),
        ("auto", "tpu", "no device is called 'tpu'"),
    ],
)
def test_unknown_names(engine, device, words):
    with pytest.raises(ConfigurationError, match=words):
        choose(engine, device)


def test_known_and_not_to_be_had():
    with pytest.raises(EngineError, match="openvino does not run on cuda"):
        choose("openvino", "cuda")


def test_problems():
    found = engines.problems()
    assert list(found) == [
        "tensorrt on cuda",
        "tensorrt-rtx on cuda",
        "onnxruntime on cuda",
        "openvino on cpu",
        "onnxruntime on cpu",
    ]
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
def test_swapped_channels(graph, tiny, name):
    """A graph that tells the channels apart sees RGB, and its pictures come back as they came."""
    rng = np.random.default_rng(0)
    engine = load(graph, choose(name, "cpu"))
    reader = load(reading(tiny), choose(name, "cpu"))
    for count in (1, 2):
        batch = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        batch.setflags(write=False)
        assert np.array_equal(engine.infer(batch, swapped=True), 255 - batch)
        rgb = np.ascontiguousarray(batch[..., ::-1])
        found = reader.infer(batch, swapped=True)
        assert np.array_equal(found, reader.infer(rgb))
        assert not np.array_equal(found, reader.infer(batch))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("wrong", [((1, 1, 1, 3), np.uint8), ((1, 32, 32, 3), np.float32)])
def test_what_would_be_stretched_or_rounded_is_refused(graph, name, wrong):
    engine = load(graph, choose(name, "cpu"))
    shape, dtype = wrong
    with pytest.raises(EngineError, match=f"{name} failed on a batch of 1"):
        engine.infer(np.zeros(shape, dtype))


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


class Giving(engines.Engine):
    """Gives what it was made with."""

    def __init__(self, numbers: np.ndarray) -> None:
        info = engines.EngineInfo("giving", "cpu", "none", "f32", "a test")
        super().__init__(info, Signature((), ()))
        self.numbers = numbers

    def _infer(self, _):
        return self.numbers

    def _release(self):
        pass


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_every_number_that_is_not_finite_is_found(kind):
    batch = np.zeros((2, 1, 1, 3), np.uint8)
    for bad in (np.nan, np.inf, -np.inf):
        for place in range(6):
            numbers = np.full((2, 3), 0.5, kind)
            numbers.flat[place] = bad
            with pytest.raises(EngineError, match="not finite"):
                Giving(numbers).infer(batch)
    # Their squares are not to be had in this type, and they are numbers all the same.
    large = np.full((2, 3), np.finfo(kind).max, kind)
    assert Giving(large).infer(batch) is large


def test_precisions(graph):
    assert load(graph, choose("openvino"), "f32").info.precision == "f32"
    assert load(graph, choose("onnxruntime", "cpu"), "f32").info.precision == "fp32"
    with pytest.raises(EngineError, match="not in bf16"):
        load(graph, choose("onnxruntime", "cpu"), "bf16")
    half = Graph(graph.data, graph.file, "fp16", graph.signature)
    with pytest.raises(EngineError, match="not in f32"):
        load(half, choose("onnxruntime", "cpu"), "f32")
    # OpenVINO carries half weights over.
    assert load(half, choose("openvino"), "f32").info.precision == "f32, fp16 file"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_quantised_layers_have_no_other_arithmetic(graph, name, precision):
    eight = Graph(graph.data, graph.file, "int8", graph.signature)
    assert "int8" in load(eight, choose(name, "cpu")).info.precision
    with pytest.raises(EngineError, match=rf"as it is stored \(int8\), not in {precision}"):
        load(eight, choose(name, "cpu"), precision)


class ProcessCore:
    """The process's own Core, but for what a test changes: another one must not be freed."""

    def __init__(self):
        self.own = OWN_CORE

    def __getattr__(self, name):
        return getattr(self.own, name)


def test_bf16_on_a_cpu_without_it(graph, monkeypatch):
    class Core(ProcessCore):
        def get_property(self, device, name):
            if name == "OPTIMIZATION_CAPABILITIES":
                return ["FP32"]
            return self.own.get_property(device, name)

    monkeypatch.setattr(openvino_engine, "core", Core)
    with pytest.raises(EngineError, match="does not compute bf16"):
        load(graph, choose("openvino"), "bf16")
    assert load(graph, choose("openvino"), "auto").info.precision == "f32"


@pytest.mark.parametrize("name", ENGINES)
def test_threads(graph, name):
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    for threads in (1, np.int64(1)):
        assert (load(graph, choose(name, "cpu"), threads=threads).infer(batch) == 255).all()


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": -1},
        {"threads": 1.5},
        {"threads": True},
        {"precision": "fp16"},
        {"precision": ""},
        {"mode": "fast"},
    ],
)
def test_wrong_options(graph, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load(graph, choose("openvino"), **options)
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load_chain(graph, graph, choose("openvino"), **options)


def test_what_is_not_installed_is_said_in_one_phrase(absent):
    absent("onnxruntime", "tensorrt", "tensorrt_rtx")
    assert "tensorrt, tensorrt-rtx and onnxruntime-gpu are not installed" in choose().reason


def test_throughput(graph):
    engine = load(graph, choose("openvino"), mode="throughput")
    rng = np.random.default_rng(0)
    for count in (1, 7, 2):
        batch = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        batch.setflags(write=count != 7)
        assert np.array_equal(engine.infer(batch), 255 - batch)
    with pytest.raises(EngineError, match="openvino failed on a batch of 2"):
        engine.infer(np.zeros((2, 31, 32, 3), np.uint8))
    assert (engine.infer(np.zeros((1, 32, 32, 3), np.uint8)) == 255).all()
    engine.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(np.zeros((1, 32, 32, 3), np.uint8))


def test_throughput_of_an_engine_without_it(graph):
    with pytest.raises(ConfigurationError, match="onnxruntime has no mode 'throughput'"):
        load(graph, choose("onnxruntime", "cpu"), mode="throughput")


@pytest.mark.parametrize("name", ENGINES)
def test_chain(graph, tiny, name):
    second = reading(tiny)
    chain = load_chain(graph, second, choose(name, "cpu"))
    alone = load(second, choose(name, "cpu"))
    rng = np.random.default_rng(0)
    kept = []
    for count in (1, 3, 1, 1):
        batch = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        result = chain.infer(batch)
        assert np.array_equal(result.first, 255 - batch)
        assert np.allclose(result.second, alone.infer(result.first))
        assert min(result.milliseconds) > 0
        swapped = chain.infer(batch, swapped=True)
        assert np.array_equal(swapped.first, 255 - batch)
        cartoon = np.ascontiguousarray(swapped.first[..., ::-1])
        assert np.allclose(swapped.second, alone.infer(cartoon))
        kept += [(result, 255 - batch), (swapped, 255 - batch)]
    # The caller's own: what came later is not written over it.
    assert all(np.array_equal(result.first, expected) for result, expected in kept)
    with pytest.raises(EngineError, match=f"{name} failed on a batch of 1"):
        chain.infer(np.zeros((1, 31, 32, 3), np.uint8))
    chain.close()
    chain.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        chain.infer(batch)


def test_chain_whose_second_graph_is_wrong(graph):
    second = Graph(b"nonsense", "recognizer.onnx", "fp32", graph.signature)
    with pytest.raises(EngineError, match=r"cannot load recognizer\.onnx"):
        load_chain(graph, second, choose("openvino"))


def test_openvino_loads_the_compiled_graph_from_the_cache(graph, cache_folder, monkeypatch):
    load(graph, choose("openvino")).close()
    (note,) = cache_folder.glob("*.note")
    compiled = []

    class Core(ProcessCore):
        def compile_model(self, *arguments):
            compiled.append(arguments)
            return self.own.compile_model(*arguments)

    monkeypatch.setattr(openvino_engine, "core", Core)
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    assert (load(graph, choose("openvino")).infer(batch) == 255).all()
    assert compiled == []
    data = bytearray(note.read_bytes())
    data[-1] ^= 1
    note.write_bytes(data)
    assert (load(graph, choose("openvino")).infer(batch) == 255).all()
    assert len(compiled) == 1
    load(graph, choose("openvino"), "f32")
    assert len(list(cache_folder.glob("*.note"))) == 2 - (
        "BF16" not in openvino_engine.capabilities()
    )


def test_openvino_does_without_a_cache_that_cannot_be_used(graph, cache_folder):
    cache_folder.write_text("a file")
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    assert (load(graph, choose("openvino")).infer(batch) == 255).all()


def test_bound_run(graph):
    """What runs on CUDA, with its buffers on the CPU."""
    session = ort_engine._session(graph.data, "cpu", None)
    bound = {n: ort_engine.BoundRun(session, graph.signature, n, "cpu") for n in (1, 3)}
    rng = np.random.default_rng(0)
    kept = []
    for count in (1, 3, 1, 3):
        batch = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        kept.append((bound[count](batch), 255 - batch))
        assert np.array_equal(bound[count](batch[:, ::-1]), 255 - batch[:, ::-1])
    for output, expected in kept:
        assert np.array_equal(output, expected)
    with pytest.raises(ValueError, match="must be"):
        bound[3](np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("records", [True, False])
def test_onnxruntime_on_cuda_is_bound(graph, monkeypatch, records):
    """CUDA's session, played by one on the CPU."""
    asked = []
    real = ort_engine._session

    def session(data, device, threads, *, tf32=True, recorded=False):
        asked.append((device, tf32, recorded))
        if recorded and not records:
            raise RuntimeError("This session cannot use the graph capture feature")
        made = real(data, "cpu", threads)
        monkeypatch.setattr(made, "get_providers", lambda: ["CUDAExecutionProvider"])
        return made

    bound = ort_engine.BoundRun
    monkeypatch.setattr(ort_engine, "_session", session)
    monkeypatch.setattr(ort_engine, "BoundRun", lambda *some: bound(*some[:-1], "cpu"))
    engine = load(graph, engines.Choice("onnxruntime", "cuda", "test"), "f32")
    assert ("no CUDA graph: this session cannot" in engine.info.precision) is not records
    assert asked[0] == ("cuda", False, True)
    for count in (1, 2, 1):
        batch = np.full((count, 32, 32, 3), 9, np.uint8)
        assert (engine.infer(batch) == 246).all()
    engine.close()


def test_threads_are_a_matter_of_cpus(graph):
    with pytest.raises(ConfigurationError, match="threads are a matter of CPUs"):
        load(graph, engines.Choice("onnxruntime", "cuda", "test"), threads=2)


def test_ctrl_c_after_an_engine_was_freed(bundle):
    """OpenVINO's plugin, when freed, left the thread's signal stack in memory that was gone."""
    program = (
        "import gc, os, signal\n"
        "import numpy as np\n"
        "from dtir_sdk import Transfer\n"
        "for _ in range(2):\n"
        f"    with Transfer({str(bundle.folder)!r}, engine='openvino') as transfer:\n"
        "        transfer(np.zeros((32, 32, 3), np.uint8))\n"
        "    del transfer\n"
        "    gc.collect()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
