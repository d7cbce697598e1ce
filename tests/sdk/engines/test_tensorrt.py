"""The TensorRT engine's logic, on a fake card."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from dtir_sdk import Transfer
from dtir_sdk.batches import BatchRange
from dtir_sdk.engines import Graph, choose, load, load_chain, problems
from dtir_sdk.engines.tensorrt import library as library_module
from dtir_sdk.engines.tensorrt import open_library
from dtir_sdk.engines.tensorrt.cuda import Cuda
from dtir_sdk.engines.tensorrt.execution import Execution
from dtir_sdk.engines.tensorrt.loading import load_stage
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError

KINDS = ("8.6.1", "10.9", "11.0", "rtx")


def name_of(kind: str) -> str:
    return "tensorrt-rtx" if kind == "rtx" else "tensorrt"


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def expected_probabilities(cartoons: np.ndarray) -> np.ndarray:
    scores = cartoons.mean((1, 2))[:, [0, 2]] / 16
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_version_infers_and_frees_everything(machine, transfer, kind):
    fake = machine(kind)
    engine = load(transfer, choose(name_of(kind)))
    assert (engine.info.engine, engine.info.device) == (name_of(kind), "cuda")
    assert engine.info.processor == "NVIDIA Test 1"
    for count in (1, 3, 1, 16, 3, 1, 16, 16):
        batch = pictures(count)
        assert np.array_equal(engine.infer(batch), 255 - batch)
    assert fake.driver.contexts == []
    engine.close()
    engine.close()
    assert fake.driver.leftovers() == {}
    assert fake.trt.contexts == 0
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(pictures(1))


@pytest.mark.parametrize("kind", KINDS)
def test_chain_is_one_launch(machine, transfer, recognizer, kind):
    fake = machine(kind)
    chain = load_chain(transfer, recognizer, choose(name_of(kind)))
    for count in (1, 2, 2, 1):
        batch = pictures(count)
        result = chain.infer(batch)
        assert np.array_equal(result.first, 255 - batch)
        assert np.allclose(result.second, expected_probabilities(255 - batch), atol=1e-5)
        assert result.milliseconds == (0.25, 0.25)
    fake.driver.calls.clear()
    chain.infer(pictures(1))
    work = [call for call in fake.driver.calls if not call.startswith(("cuCtx", "cuEventElapsed"))]
    assert work == ["cuGraphLaunch", "cuStreamSynchronize"]
    chain.close()
    assert fake.driver.leftovers() == {}
    assert fake.trt.contexts == 0


def test_first_frame_needs_no_recording(machine, transfer):
    fake = machine()
    engine = load(transfer, choose("tensorrt"))
    fake.driver.calls.clear()
    engine.infer(pictures(1))
    assert "cuGraphLaunch" in fake.driver.calls
    assert "cuStreamBeginCapture" not in fake.driver.calls


def test_outputs_are_the_callers_own(machine, transfer):
    machine()
    engine = load(transfer, choose("tensorrt"))
    first = engine.infer(pictures(1, 1))
    kept = first.copy()
    engine.infer(pictures(1, 2))
    engine.close()
    assert np.array_equal(first, kept)


def test_arrays_on_the_card_are_used_where_they_lie(machine, fakes, transfer, recognizer):
    fake = machine()
    chain = load_chain(transfer, recognizer, choose("tensorrt"))
    batch = fakes.GpuArray(pictures(2))
    cartoons = fakes.GpuArray(np.zeros_like(batch.array))
    read = fakes.GpuArray(np.zeros((2, 2), np.float32))
    for number in range(3):
        cartoons.array[:] = 0
        fake.driver.calls.clear()
        assert chain.infer_into(batch, cartoons, read) == (0.25, 0.25)
        assert np.array_equal(cartoons.array, 255 - batch.array)
        assert np.allclose(read.array, expected_probabilities(cartoons.array), atol=1e-5)
        assert "cuMemcpyHtoDAsync" not in fake.driver.calls
        assert ("cuGraphLaunch" in fake.driver.calls) == (number > 0)
    result = chain.infer(batch)
    assert np.array_equal(result.first, cartoons.array)
    assert set(fakes.StridedMemoryView.streams) <= set(fake.driver.streams)


def test_recordings_are_bounded(machine, fakes, transfer):
    fake = machine()
    engine = load(transfer, choose("tensorrt"))
    kept = [fakes.GpuArray(pictures(1, seed)) for seed in range(60)]
    for array in kept + kept:
        assert np.array_equal(engine.infer(array), 255 - array.array)
    for array in kept[:3]:
        engine.infer(array)
        engine.infer(array)
    assert len(fake.driver.executables) <= 48
    engine.close()
    assert fake.driver.leftovers() == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f.GpuArray(pictures(1)[:, :31].copy()), r"must be image uint8 \[N,32,32,3\]"),
        (lambda f: f.GpuArray(pictures(1).astype(np.float32)), "the array is image float32"),
        (lambda f: f.GpuArray(pictures(1)[:, :, ::-1]), "C-contiguous"),
        (lambda f: f.GpuArray(pictures(1), device=1), "lies on GPU 1, the engine on GPU 0"),
        (lambda _: np.zeros((1, 31, 32, 3), np.uint8), r"the batch is uint8 \[1, 31, 32, 3\]"),
        (lambda _: np.zeros((1, 32, 32, 3)), "the batch is float64"),
        (lambda _: pictures(17), "a batch of 17 is outside the profiles .* 1 to 1 and 2 to 16"),
        (lambda _: pictures(0), "a batch of 0 is outside"),
    ],
)
def test_wrong_batches(machine, fakes, transfer, make, words):
    fake = machine()
    engine = load(transfer, choose("tensorrt"))
    with pytest.raises(EngineError, match=words):
        engine.infer(make(fakes))
    assert fake.driver.contexts == []
    assert (engine.infer(pictures(1)) == 255 - pictures(1)).all()


def test_a_batch_between_the_profiles(machine, transfer):
    fake = machine()
    library, cuda = open_library("tensorrt"), Cuda()
    graph = replace(transfer, batches=(BatchRange(1, 1, 1), BatchRange(4, 4, 8)))
    loaded = load_stage(library, cuda, graph, "auto")
    execution = Execution(library, cuda, [loaded.stage])
    for count in (1, 4, 8):
        assert np.array_equal(execution.run(pictures(count)).outputs[0], 255 - pictures(count))
    for count in (2, 9):
        with pytest.raises(EngineError, match=f"a batch of {count} .* 1 to 1 and 4 to 8"):
            execution.run(pictures(count))
    execution.close()
    assert fake.driver.leftovers() == {}
    # Of other profiles, so the SDK's own engine is another one.
    assert "anew" in load(transfer, choose("tensorrt")).info.reason


def test_a_bundle_says_which_batches_are_built_and_given(machine, new_bundle):
    fake = machine()
    batches = pictures(5)
    with Transfer(
        new_bundle("edge", batches=(BatchRange(1, 2, 3),)), engine="tensorrt"
    ) as transfer:
        assert np.array_equal(transfer(batches), 255 - batches)
    (build,) = fake.trt.builds
    assert build.config.profiles == [{"image": [[count, 32, 32, 3] for count in (1, 2, 3)]}]


def test_wrong_outputs(machine, fakes, transfer):
    machine()
    engine = load(transfer, choose("tensorrt"))
    batch = pictures(2)
    for output, words in (
        (np.zeros_like(batch), "must be an array on the GPU"),
        (fakes.GpuArray(np.zeros_like(batch), readonly=True), "read-only"),
        (fakes.GpuArray(np.zeros_like(batch[:1])), "the batch holds 2 and an output 1"),
    ):
        with pytest.raises(EngineError, match=words):
            engine.infer_into(batch, output)


@pytest.mark.parametrize("whose", ["ours", "the caller's"])
def test_not_finite(machine, fakes, tiny, recognizer, whose):
    machine()
    graph = Graph(tiny.reader("Log"), "recognizer.onnx", "fp32", recognizer.signature)
    engine = load(graph, choose("tensorrt"))
    batch = np.full((1, 32, 32, 3), 9, np.uint8)
    with pytest.raises(EngineError, match="not finite"):
        if whose == "ours":
            engine.infer(batch)
        else:
            engine.infer_into(batch, fakes.GpuArray(np.zeros((1, 2), np.float32)))


def test_the_callers_context_stays_the_callers(machine, transfer):
    """As with PyCUDA: one context, made by the application, current in its thread."""
    fake = machine()
    fake.driver.contexts.append(4711)
    engine = load(transfer, choose("tensorrt"))
    seen = []
    wrapped = fake.driver.cuCtxPushCurrent
    fake.driver.__dict__["cuCtxPushCurrent"] = lambda context: (
        seen.append(context),
        wrapped(context),
    )[1]
    engine.infer(pictures(1))
    assert fake.driver.contexts == [4711]
    worker = threading.Thread(target=engine.infer, args=(pictures(2),))
    worker.start()
    worker.join()
    engine.close()
    assert set(seen) == {4711}
    assert fake.driver.contexts == [4711]
    assert fake.driver.primary == 0
    assert fake.driver.leftovers() == {"contexts": 1}


def test_close_after_the_callers_context_is_gone(machine, transfer):
    fake = machine()
    fake.driver.contexts.append(4711)
    engine = load(transfer, choose("tensorrt"))
    fake.driver.contexts.clear()
    fake.driver.refuses["cuCtxPushCurrent"] = fake.driver.CUresult.CUDA_ERROR_INVALID_CONTEXT
    engine.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        engine.infer(pictures(1))


def test_threads_take_turns(machine, transfer):
    machine()
    engine = load(transfer, choose("tensorrt"))
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(20):
            batch = pictures(1 + (seed + turn) % 3, seed)
            if not np.array_equal(engine.infer(batch), 255 - batch):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_out_of_memory(machine, transfer):
    fake = machine(memory=100_000)
    with pytest.raises(EngineError, match=r"GPU is out of memory \(0 of 0 MiB are free\): close"):
        load(transfer, choose("tensorrt"))
    assert fake.driver.leftovers() == {}


def test_out_of_memory_in_tensorrt(machine, transfer):
    fake = machine()
    fake.trt.refuses = "[memory.cpp] Error Code 2:\n OutOfMemory (no further information)"
    with pytest.raises(EngineError, match=r"cannot build transfer\.onnx: .*OutOfMemory") as caught:
        load(transfer, choose("tensorrt"))
    assert "\n" not in str(caught.value)
    assert "only a warning" not in str(caught.value)
    assert fake.driver.leftovers() == {}


@pytest.mark.parametrize("fails", ["always", "direct"])
def test_failure_while_running(machine, transfer, fails):
    fake = machine()
    fake.trt.fails = fails
    with pytest.raises(EngineError, match=r"tensorrt failed in transfer\.onnx"):
        load(transfer, choose("tensorrt"))
    assert fake.driver.leftovers() == {}
    assert fake.trt.contexts == 0


@pytest.mark.parametrize("kind", ["10.9", "rtx"])
def test_without_a_cuda_graph_it_runs_and_says_so(machine, transfer, kind):
    fake = machine(kind)
    fake.trt.capturable, fake.trt.fails = kind != "rtx", "captured"
    engine = load(transfer, choose(name_of(kind)))
    assert "no CUDA graph: " in engine.info.precision
    for _ in range(3):
        assert np.array_equal(engine.infer(pictures(1)), 255 - pictures(1))
    engine.close()
    assert fake.driver.leftovers() == {}


def test_wrong_signature(machine, tiny, transfer):
    fake = machine()
    graph = Graph(tiny.inverter("picture"), "transfer.onnx", "fp32", transfer.signature)
    with pytest.raises(BundleError, match=r"transfer\.onnx has the signature picture"):
        load(graph, choose("tensorrt"))
    assert fake.driver.leftovers() == {}


def test_graph_that_cannot_be_read(machine, transfer):
    machine()
    graph = Graph(b"nonsense", "transfer.onnx", "fp32", transfer.signature)
    with pytest.raises(EngineError, match=r"tensorrt cannot read transfer\.onnx: not a model"):
        load(graph, choose("tensorrt"))


def test_comes_first_where_it_works(machine):
    machine()
    choice = choose()
    assert (choice.engine, choice.device, choice.reason) == (
        "tensorrt",
        "cuda",
        "the best that works here",
    )
    assert next(iter(problems().items())) == ("tensorrt on cuda", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu": None}, "no NVIDIA GPU is here: install the NVIDIA driver"),
        ({"kind": None}, r'tensorrt is not installed: pip install "dtir\[tensorrt\]"'),
    ],
)
def test_asked_for_and_not_to_be_had(machine, options, words):
    machine(**options)
    with pytest.raises(EngineError, match=words):
        choose("tensorrt")
    assert choose(device="cpu").engine == "openvino"


def test_no_driver(machine):
    machine().driver.installed = False
    with pytest.raises(EngineError, match="no NVIDIA driver was found: install"):
        choose("tensorrt")
    assert "no NVIDIA driver was found" in choose().reason


def test_driver_too_old(machine, monkeypatch):
    machine(offers=12020)

    def version(name: str) -> str:
        if name != "tensorrt_cu13":
            raise library_module.PackageNotFoundError(name)
        return "11.0"

    monkeypatch.setattr(library_module, "version", version)
    with pytest.raises(
        EngineError, match=r"driver is too old .* CUDA 12\.2, and 13\.0 is needed: update"
    ):
        choose("tensorrt")


def test_driver_that_the_library_finds_too_old(machine, transfer):
    fake = machine()
    fake.trt.starts = False
    with pytest.raises(EngineError, match="tensorrt cannot start: CUDA initialization failure"):
        load(transfer, choose("tensorrt"))


def test_cpu_is_not_its_device(machine):
    machine()
    with pytest.raises(EngineError, match="tensorrt does not run on cpu: it runs on cuda"):
        choose("tensorrt", "cpu")


def test_precisions(machine, transfer):
    fake = machine()
    assert load(transfer, choose("tensorrt")).info.precision == "fp32, tf32 allowed"
    assert load(transfer, choose("tensorrt"), "f32").info.precision == "fp32"
    assert [("tf32" in build.config.flags) for build in fake.trt.builds] == [True, False]
    half = Graph(transfer.data, transfer.file, "fp16", transfer.signature)
    assert load(half, choose("tensorrt")).info.precision == "fp16"
    for stored in ("fp16", "int8"):
        other = Graph(transfer.data, transfer.file, stored, transfer.signature)
        with pytest.raises(EngineError, match="not in f32"):
            load(other, choose("tensorrt"), "f32")
    with pytest.raises(EngineError, match="not in bf16"):
        load(transfer, choose("tensorrt"), "bf16")


def test_pascal_stores_fp16_and_computes_fp32(machine, transfer):
    fake = machine("8.6.1", gpu="NVIDIA GeForce GTX 1080 Ti", capability=(6, 1))
    half = Graph(transfer.data, transfer.file, "fp16", transfer.signature)
    info = load(half, choose("tensorrt")).info
    assert "fp32 from an fp16 file" in info.precision
    assert "1/64" in info.precision
    assert not {"fp16", "obey"} & fake.trt.builds[0].config.flags


def test_tensorrt_8_is_told_the_precisions(machine, transfer):
    fake = machine("8.6.1")
    for precision in ("fp16", "int8"):
        load(Graph(transfer.data, "t.onnx", precision, transfer.signature), choose("tensorrt"))
    half, eight = fake.trt.builds
    assert {"fp16", "obey"} <= half.config.flags
    assert half.network.layers[0].precision == "float32"
    assert "int8" in eight.config.flags
    assert half.config.previews == {"sharing"}


@pytest.mark.parametrize("options", [{"threads": 2}, {"mode": "throughput"}])
def test_options_that_a_gpu_does_not_have(machine, transfer, recognizer, options):
    machine()
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load(transfer, choose("tensorrt"), **options)
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load_chain(transfer, recognizer, choose("tensorrt"), **options)


def test_ten_thousand_frames_hold_nothing(machine, transfer):
    """The counts would see a leak: the open engine itself is seen by them."""
    fake = machine()
    engine = load(transfer, choose("tensorrt"))
    held = fake.driver.leftovers()
    assert held
    batch = pictures(1)
    for _ in range(10_000):
        engine.infer(batch)
    assert fake.driver.leftovers() == held
