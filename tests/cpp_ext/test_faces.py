"""dtir_ext against OpenCV's sequence of calls, which is its specification."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# One that is there and cannot be loaded is no reason to skip.
if find_spec("dtir_ext") is None:
    pytest.skip("dtir_ext is not installed: pip install ./cpp_ext", allow_module_level=True)

import dtir_ext
from dtir_sdk.faces import crop_face_with_opencv, paste_face_with_opencv

# OpenCV 4 rounds positions to 1/32 pixel, which is up to 4 of 255 off on noise; OpenCV 5 is exact.
needs_exact_opencv = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV before 5 rounds positions to 1/32 pixel"
)

placements = st.tuples(
    st.floats(-3.2, 3.2),  # angle
    st.floats(-2.5, 1.5).map(lambda power: 10**power),  # scale
    st.floats(-0.3, 1.3),  # the crop's centre, as a share of the frame
    st.floats(-0.3, 1.3),
)
sizes = st.sampled_from([1, 2, 3, 16, 31, 64, 128, 257])


def placed(placement, size: int, shape: tuple[int, ...]) -> np.ndarray:
    angle, scale, across, down = placement
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    x, y = across * shape[1], down * shape[0]
    return np.array([[a, -b, size / 2 - a * x + b * y], [b, a, size / 2 - b * x - a * y]])


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def check_crop(frame, transform, size):
    (crop,) = dtir_ext.crop_faces(frame, transform[None], size)
    assert difference(crop, crop_face_with_opencv(frame, transform, size)) <= 1


def check_paste(frame, cartoon, transform):
    expected, found = frame.copy(), frame.copy()
    paste_face_with_opencv(expected, cartoon, transform)
    dtir_ext.paste_faces(found, cartoon[None], transform[None])
    assert difference(found, expected) <= 1


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@needs_exact_opencv
@given(placements, sizes)
@settings(max_examples=150, deadline=None)
def test_crop_of_a_photo(wide, placement, size):
    check_crop(wide, placed(placement, size, wide.shape), size)


@needs_exact_opencv
@given(placements, sizes, st.integers(1, 80), st.integers(1, 80), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_crop_of_noise(placement, size, height, width, seed):
    frame = noise(height, width, seed)
    check_crop(frame, placed(placement, size, frame.shape), size)


@needs_exact_opencv
@given(placements, sizes)
@settings(max_examples=60, deadline=None)
def test_paste_on_a_photo(portrait, placement, size):
    check_paste(portrait, noise(size, size), placed(placement, size, portrait.shape))


@needs_exact_opencv
@given(placements, sizes, st.integers(1, 80), st.integers(1, 80), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_paste_on_noise(placement, size, height, width, seed):
    frame = noise(height, width, seed)
    check_paste(frame, noise(size, size, seed + 1), placed(placement, size, frame.shape))


@needs_exact_opencv
@pytest.mark.parametrize("factor", [2, 3, 4, 6, 10])
def test_whole_factors_of_reduction(factor):
    """Ties, which OpenCV's own path for whole factors rounds in its own way."""
    frame = noise(64 * factor, 64 * factor)
    check_crop(frame, np.array([[0.5 / factor, 0, 8], [0, 0.5 / factor, 8]]), 64)
    check_crop(frame, np.array([[1 / 1.5 / factor, 0, 0], [0, 1 / 1.5 / factor, 0]]), 64)


def test_an_unchanged_crop_is_the_frame():
    frame = noise(50, 70)
    crop = dtir_ext.crop_faces(frame, np.array([[[1.0, 0, -7], [0, 1, -9]]]), 32)
    assert (crop[0] == frame[9:41, 7:39]).all()


@given(placements, placements)
@settings(max_examples=20, deadline=None)
def test_a_batch_is_its_faces(portrait, one, other):
    transforms = np.stack([placed(place, 64, portrait.shape) for place in (one, other)])
    singles = [dtir_ext.crop_faces(portrait, each[None], 64)[0] for each in transforms]
    out = np.zeros((2, 64, 64, 3), np.uint8)
    assert dtir_ext.crop_faces(portrait, transforms, 64, out=out) is out
    assert (out == singles).all()
    together, alone = portrait.copy(), portrait.copy()
    dtir_ext.paste_faces(together, 255 - out, transforms)
    for crop, each in zip(out, transforms, strict=True):
        dtir_ext.paste_faces(alone, 255 - crop[None], each[None])
    assert (together == alone).all()


@pytest.mark.parametrize("scale", [0.2, 0.9])
def test_swapped_channels(portrait, scale):
    transforms = placed((0.3, scale, 0.5, 0.4), 96, portrait.shape)[None]
    plain = dtir_ext.crop_faces(portrait, transforms, 96)
    swapped = dtir_ext.crop_faces(portrait, transforms, 96, swap_channels=True)
    assert (plain[..., ::-1] == swapped).all()
    one, other = portrait.copy(), portrait.copy()
    dtir_ext.paste_faces(one, plain, transforms)
    dtir_ext.paste_faces(other, swapped, transforms, swap_channels=True)
    assert (one == other).all()


def test_rows_may_lie_apart(portrait):
    view = portrait[10:300, 20:400]
    transforms = placed((0.1, 0.4, 0.9, 0.9), 64, view.shape)[None]
    crops = dtir_ext.crop_faces(view, transforms, 64)
    assert (crops == dtir_ext.crop_faces(view.copy(), transforms, 64)).all()
    frame, packed = portrait.copy(), view.copy()
    dtir_ext.paste_faces(frame[10:300, 20:400], crops, transforms)
    dtir_ext.paste_faces(packed, crops, transforms)
    assert (frame[10:300, 20:400] == packed).all()
    frame[10:300, 20:400] = view
    assert (frame == portrait).all()


def test_no_faces(portrait):
    frame = portrait.copy()
    assert dtir_ext.crop_faces(frame, np.empty((0, 2, 3)), 64).shape == (0, 64, 64, 3)
    dtir_ext.paste_faces(frame, np.empty((0, 64, 64, 3), np.uint8), np.empty((0, 2, 3)))
    assert (frame == portrait).all()


def test_threads_may_share_it(wide):
    transforms = np.stack([placed((0.1 * n, 0.3, 0.5, 0.5), 128, wide.shape) for n in range(8)])
    expected = dtir_ext.crop_faces(wide, transforms, 128)
    with ThreadPoolExecutor(4) as pool:
        for crops in pool.map(lambda _: dtir_ext.crop_faces(wide, transforms, 128), range(16)):
            assert (crops == expected).all()


@given(
    st.lists(st.floats(width=64), min_size=6, max_size=6),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 40),
)
@settings(max_examples=300, deadline=None)
def test_any_numbers_at_all(entries, height, width, size):
    frame = np.full((height, width, 3), 90, np.uint8)
    transforms = np.array(entries).reshape(1, 2, 3)
    try:
        crops = dtir_ext.crop_faces(frame, transforms, size)
    except ValueError as error:
        assert "cannot be inverted" in str(error)
        return
    assert (crops == 90).all()
    dtir_ext.paste_faces(frame, crops, transforms)
    assert (frame == 90).all()


FRAME = np.zeros((8, 9, 3), np.uint8)
EYE = np.eye(3)[None, :2].copy()
CROPS = np.zeros((1, 4, 4, 3), np.uint8)
READ_ONLY = FRAME.copy()
READ_ONLY.setflags(write=False)


@pytest.mark.parametrize(
    ("frame", "transforms", "size", "error", "text"),
    [
        (None, EYE, 4, TypeError, "frame must be an array in host memory, not NoneType"),
        ([[1]], EYE, 4, TypeError, "not list"),
        (FRAME.astype(float), EYE, 4, TypeError, "frame must be uint8"),
        (FRAME[..., 0], EYE, 4, ValueError, r"frame must be \[H, W, 3\], not \[8, 9\]"),
        (FRAME[..., :2], EYE, 4, ValueError, r"not \[8, 9, 2\]"),
        (FRAME[:0], EYE, 4, ValueError, "not 1 to 32767 pixels"),
        (FRAME[:, :0], EYE, 4, ValueError, "not 1 to 32767 pixels"),
        (np.zeros((1, 32768, 3), np.uint8), EYE, 4, ValueError, "not 1 to 32767 pixels"),
        (FRAME[..., ::-1], EYE, 4, ValueError, "contiguous rows"),
        (FRAME[:, ::2], EYE, 4, ValueError, "contiguous rows"),
        (FRAME[::-1], EYE, 4, ValueError, "contiguous rows"),
        (FRAME, "x", 4, TypeError, "transforms must be an array"),
        (FRAME, EYE.astype(np.float32), 4, TypeError, "transforms must be float64"),
        (FRAME, EYE[0], 4, ValueError, r"transforms must be \[N, 2, 3\], not \[2, 3\]"),
        (FRAME, EYE * 0, 4, ValueError, "transform 0 cannot be inverted"),
        (FRAME, EYE * np.nan, 4, ValueError, "cannot be inverted"),
        (FRAME, np.full((1, 2, 3), np.inf), 4, ValueError, "cannot be inverted"),
        (FRAME, EYE, 0, ValueError, "size must be 1 to 32767, not 0"),
        (FRAME, EYE, -1, ValueError, "not -1"),
        (FRAME, EYE, 10**6, ValueError, "not 1000000"),
        (FRAME, EYE, 4.5, TypeError, "incompatible"),
    ],
)
def test_what_cannot_be_cropped(frame, transforms, size, error, text):
    with pytest.raises(error, match=text):
        dtir_ext.crop_faces(frame, transforms, size)


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, "2 pictures for 1 transforms"),
        (np.zeros((1, 5, 5, 3), np.uint8), ValueError, "but size is 4"),
        (np.zeros((1, 4, 5, 3), np.uint8), ValueError, "square"),
        (np.zeros((1, 4, 8, 3), np.uint8)[:, :, ::2], ValueError, "contiguous"),
        (np.zeros((1, 4, 4, 3), np.float32), TypeError, "out must be uint8"),
        (READ_ONLY[None, :4, :4], ValueError, "out is read-only"),
    ],
)
def test_where_crops_cannot_go(out, error, text):
    with pytest.raises(error, match=text):
        dtir_ext.crop_faces(FRAME, EYE, 4, out=out)


@pytest.mark.parametrize(
    ("frame", "cartoons", "error", "text"),
    [
        (READ_ONLY, CROPS, ValueError, "frame is read-only"),
        (FRAME, CROPS[0], ValueError, r"cartoons must be \[N, S, S, 3\]"),
        (FRAME, CROPS[:, :3], ValueError, "square"),
        (FRAME, CROPS[:0], ValueError, "0 pictures for 1 transforms"),
        (FRAME, CROPS[:, :0, :0], ValueError, "not 1 to 32767 pixels"),
        (FRAME, CROPS[..., ::-1], ValueError, "cartoons must be contiguous"),
        (FRAME, CROPS.astype(np.int8), TypeError, "cartoons must be uint8"),
        (FRAME, None, TypeError, "cartoons must be an array in host memory, not NoneType"),
    ],
)
def test_what_cannot_be_pasted(frame, cartoons, error, text):
    with pytest.raises(error, match=text):
        dtir_ext.paste_faces(frame, cartoons, EYE)


# A frame that ends where the memory does: what is read behind it ends the process.
_AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
import numpy as np
import dtir_ext

libc = ctypes.CDLL(None, use_errno=True)
pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
memory = np.frombuffer(pages, np.uint8)
behind = ctypes.c_void_p(memory.ctypes.data + mmap.PAGESIZE)
assert libc.mprotect(behind, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
for width in range(1, 6):
    for height in range(1, 8):
        size = height * width * 3
        frame = memory[mmap.PAGESIZE - size : mmap.PAGESIZE].reshape(height, width, 3)
        for scale in (0.5, 1.0, 3.0):
            transform = np.array([[[scale, 0.0, 0.0], [0.0, scale, 0.0]]])
            dtir_ext.crop_faces(frame, transform, 8)
print("read no more")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is asked for as on Linux")
def test_nothing_behind_the_frame_is_read():
    done = subprocess.run(
        [sys.executable, "-c", _AT_THE_END_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "read no more\n"), done.stderr


def test_rows_that_lie_gigabytes_apart():
    """Offsets beyond 31 bits; what is not touched takes no memory."""
    rows, width, stride = 3, 40, 1_200_000_000
    try:
        memory = np.zeros((rows - 1) * stride + width * 3, np.uint8)
    except MemoryError:
        pytest.skip("this machine does not lend out gigabytes that are not used")
    frame = np.lib.stride_tricks.as_strided(memory, (rows, width, 3), (stride, 3, 1))
    frame[:] = noise(rows, width)
    transform = placed((0.3, 0.7, 0.5, 0.5), 16, frame.shape)[None]
    found = dtir_ext.crop_faces(frame, transform, 16)
    assert np.array_equal(found, dtir_ext.crop_faces(frame.copy(), transform, 16))
    cartoon = noise(16, 16, 1)[None]
    packed = frame.copy()
    dtir_ext.paste_faces(frame, cartoon, transform)
    dtir_ext.paste_faces(packed, cartoon, transform)
    assert np.array_equal(frame, packed)
