"""On a real card: every CUDA engine against the CPU, arrays on the card, contexts, memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import choose, load, load_chain, problems
from dtir_sdk.engines.tensorrt.cuda import Cuda
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.graphs import bundle_graph
from dtir_sdk.pictures import swap_colors

pytestmark = pytest.mark.gpu

ENGINES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
TENSORRT = ENGINES[:2]


@pytest.fixture(autouse=True)
def cache_folder():
    """The user's own cache: engines are built once for all of these tests."""


@pytest.fixture
def choice(request):
    problem = problems()[f"{request.param} on cuda"]
    if problem is not None:
        pytest.skip(str(problem))
    return choose(request.param, "cuda")


@pytest.fixture(scope="module")
def graphs():
    bundle = Bundle.open()
    return bundle_graph(bundle, "transfer"), bundle_graph(bundle, "recognizer")


@pytest.fixture(scope="module")
def crops(portrait):
    """Sixteen faces, uint8 [16, S, S, 3] RGB: the portrait's, brighter and darker."""
    (face,) = FaceFinder(0.6).find(portrait)
    size = Bundle.open().manifest.image_size
    crop = swap_colors(crop_face(portrait, alignment(face.landmarks, size), size))
    shades = np.linspace(0.5, 1.2, 16)[:, None, None, None]
    return np.clip(crop[None] * shades, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(graphs, crops):
    """Cartoons and probabilities by ONNX Runtime in FP32 on the CPU."""
    chain = load_chain(*graphs, choose("onnxruntime", "cpu"))
    result = chain.infer(crops)
    chain.close()
    return result


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    difference = one.astype(np.float64) - other
    return float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-12)))


@pytest.mark.parametrize("choice", ENGINES, indirect=True)
@pytest.mark.parametrize("count", [1, 2, 16])
def test_same_as_the_cpu(choice, graphs, crops, expected, count):
    chain = load_chain(*graphs, choice)
    for _ in range(3):
        result = chain.infer(crops[:count])
        assert psnr(result.first, expected.first[:count]) >= 45
        assert (result.second.argmax(1) == expected.second[:count].argmax(1)).all()
    assert "no CUDA graph" not in chain.info.precision
    chain.close()


@pytest.mark.parametrize("choice", ENGINES, indirect=True)
def test_shared_by_threads(choice, graphs, crops, expected):
    engine = load(graphs[0], choice)
    wrong = []

    def work(number: int) -> None:
        for _ in range(20):
            cartoon = engine.infer(crops[number : number + 1])[0]
            if psnr(cartoon, expected.first[number]) < 45:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    engine.close()
    assert wrong == []


@pytest.mark.parametrize("choice", TENSORRT, indirect=True)
@pytest.mark.parametrize("maker", ["torch", "cupy", "pycuda"])
def test_arrays_on_the_card(choice, graphs, crops, expected, maker):
    put, get = makers(maker)
    chain = load_chain(*graphs, choice)
    batch = put(crops[:2])
    cartoons, read = put(np.zeros_like(crops[:2])), put(np.zeros((2, 2), np.float32))
    for _ in range(3):
        chain.infer_into(batch, cartoons, read)
    assert psnr(get(cartoons), expected.first[:2]) >= 45
    assert np.allclose(get(read), expected.second[:2], atol=0.02)
    chain.close()


def makers(name: str):
    module = pytest.importorskip(name)
    if name == "torch":
        if not module.cuda.is_available():
            pytest.skip("torch has no CUDA here")
        return (lambda array: module.from_numpy(array).cuda()), (lambda array: array.cpu().numpy())
    if name == "cupy":
        return module.asarray, module.asnumpy
    pytest.importorskip("pycuda.autoprimaryctx")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    return gpuarray.to_gpu, lambda array: array.get()


@pytest.mark.parametrize("choice", TENSORRT, indirect=True)
def test_pycuda_keeps_its_context(choice, graphs, crops, expected):
    driver = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    driver.init()
    context = driver.Device(0).make_context()
    try:
        before = gpuarray.to_gpu(crops)
        engine = load(graphs[0], choice)
        assert psnr(engine.infer(before), expected.first) >= 45
        assert driver.Context.get_current() == context
        assert np.array_equal(before.get(), crops)
        engine.close()
        assert np.array_equal(gpuarray.to_gpu(crops).get(), crops)
    finally:
        context.pop()
        context.detach()


@pytest.mark.slow
@pytest.mark.parametrize("choice", TENSORRT, indirect=True)
def test_ten_thousand_frames_hold_nothing(choice, graphs, crops):
    chain = load_chain(*graphs, choice)
    cuda = Cuda()

    def free() -> int:
        with cuda.active():
            status, left, _ = cuda.driver.names.cuMemGetInfo()
        assert int(status) == 0
        return int(left)

    for number in range(500):
        chain.infer(crops[: 1 + number % 2])
    before = free()
    for number in range(10_000):
        chain.infer(crops[: 1 + number % 2])
    assert before - free() < 1 << 20
    # The control: what would be seen of a leak of 4 MiB.
    with cuda.active():
        leak = cuda.driver("cuMemAlloc", 4 << 20)
        assert before - free() >= 2 << 20
        cuda.driver("cuMemFree", leak)
    chain.close()
    cuda.close()
