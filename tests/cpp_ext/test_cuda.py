"""The CUDA kernels: that they compile, what they say where they cannot run, and on a GPU the
same results as on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# One that is there and cannot be loaded is no reason to skip.
if find_spec("dtir_ext") is None:
    pytest.skip("dtir_ext is not installed: pip install ./cpp_ext", allow_module_level=True)

import dtir_ext
from dtir_ext import cuda

SOURCES = Path(__file__).parents[2] / "cpp_ext" / "src"
TRANSFORMS = np.array(
    [[[scale, -0.2 * scale, 20.0], [0.2 * scale, scale, -15.0]] for scale in (0.1, 0.3, 0.7, 1.6)]
    * 10
)
without_cuda = pytest.mark.skipif(bool(cuda.ARCHITECTURES), reason="dtir_ext has CUDA kernels")


@pytest.fixture(scope="module")
def nvcc() -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if not found:
        pytest.skip("no nvcc on the path or in CUDA_HOME")
    return found


@pytest.mark.slow
def test_the_kernels_compile_for_the_oldest_and_the_newest_gpu(nvcc, tmp_path):
    listed = subprocess.run(
        [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout.split()
    numbers = sorted(int(name.removeprefix("compute_")) for name in listed)
    for number in (numbers[0], numbers[-1]):
        made = tmp_path / f"device_{number}.o"
        command = [nvcc, "-std=c++20", f"-arch=sm_{number}", "-Werror=all-warnings", "-c"]
        result = subprocess.run(
            [*command, str(SOURCES / "device.cu"), "-o", str(made)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert made.stat().st_size > 0


@without_cuda
def test_built_without_cuda():
    frame, crops = np.zeros((8, 8, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    transforms = np.eye(3)[None, :2]
    for call in (
        lambda: cuda.crop_faces(frame, transforms, crops),
        lambda: cuda.paste_faces(frame, crops, transforms, stream=7),
    ):
        with pytest.raises(RuntimeError, match=r"built without CUDA: install .* pip install"):
            call()


@pytest.fixture(scope="module")
def torch():
    """torch, with a GPU, and dtir_ext with kernels."""
    if not cuda.ARCHITECTURES:
        pytest.skip("dtir_ext was built without CUDA")
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    return module


def difference(on_gpu, expected: np.ndarray) -> int:
    return int(np.abs(on_gpu.cpu().numpy().astype(int) - expected).max())


@pytest.mark.gpu
@pytest.mark.parametrize("swap_channels", [False, True])
@pytest.mark.parametrize("size", [1, 31, 128])
def test_the_gpu_does_as_the_cpu(torch, portrait, size, swap_channels):
    frame = torch.from_numpy(portrait).cuda()
    crops = torch.zeros((len(TRANSFORMS), size, size, 3), dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    handle = stream.cuda_stream
    cuda.crop_faces(frame, TRANSFORMS, crops, swap_channels=swap_channels, stream=handle)
    stream.synchronize()
    expected = dtir_ext.crop_faces(portrait, TRANSFORMS, size, swap_channels=swap_channels)
    assert difference(crops, expected) <= 1

    cartoons = torch.from_numpy(255 - expected).cuda()
    stream.wait_stream(torch.cuda.current_stream())
    cuda.paste_faces(frame, cartoons, TRANSFORMS, swap_channels=swap_channels, stream=handle)
    stream.synchronize()
    pasted = portrait.copy()
    dtir_ext.paste_faces(pasted, 255 - expected, TRANSFORMS, swap_channels=swap_channels)
    assert difference(frame, pasted) <= 1


@pytest.mark.gpu
def test_rows_may_lie_apart_on_the_gpu(torch, portrait):
    view = torch.from_numpy(portrait).cuda()[10:300, 20:400]
    crops = torch.zeros((len(TRANSFORMS), 64, 64, 3), dtype=torch.uint8, device="cuda")
    cuda.crop_faces(view, TRANSFORMS, crops)
    torch.cuda.synchronize()
    assert difference(crops, dtir_ext.crop_faces(portrait[10:300, 20:400], TRANSFORMS, 64)) <= 1


@pytest.mark.gpu
def test_what_the_gpu_refuses(torch, portrait):
    frame = torch.from_numpy(portrait).cuda()
    crops = torch.zeros((1, 64, 64, 3), dtype=torch.uint8, device="cuda")
    one = TRANSFORMS[:1]
    with pytest.raises(TypeError, match="frame must be an array in GPU memory"):
        cuda.crop_faces(portrait, one, crops)
    with pytest.raises(TypeError, match="out must be uint8"):
        cuda.crop_faces(frame, one, crops.float())
    with pytest.raises(ValueError, match="1 pictures for 2 transforms"):
        cuda.crop_faces(frame, TRANSFORMS[:2], crops)
    with pytest.raises(ValueError, match="contiguous rows"):
        cuda.crop_faces(frame[:, ::2], one, crops)
    with pytest.raises(ValueError, match="cannot be inverted"):
        cuda.paste_faces(frame, crops, one * 0)
