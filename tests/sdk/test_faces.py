from __future__ import annotations

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError, PictureError
from dtir_sdk.faces import (
    CROPPED_BY,
    TEMPLATE,
    FaceFinder,
    alignment,
    crop_face,
    crop_face_with_opencv,
    paste_face,
    paste_face_with_opencv,
)


def placed(angle: float, scale: float, right: float, down: float, size: int) -> np.ndarray:
    """The template's landmarks, turned, scaled and moved."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (TEMPLATE * size @ turn.T + [right, down]).astype(np.float32)


placements = st.tuples(
    st.floats(-3.1, 3.1), st.floats(0.3, 8), st.floats(-500, 500), st.floats(-500, 500)
)


@given(placements, st.sampled_from([32, 128, 256]))
def test_alignment_maps_landmarks_onto_the_template(placement, size):
    landmarks = placed(*placement, size)
    transform = alignment(landmarks, size)
    mapped = landmarks @ transform[:, :2].T + transform[:, 2]
    assert np.allclose(mapped, TEMPLATE * size, atol=0.05)


@given(placements)
def test_alignment_never_mirrors_or_shears(placement):
    rng = np.random.default_rng(0)
    landmarks = placed(*placement, 128) + rng.normal(0, 3, (5, 2)).astype(np.float32)
    linear = alignment(landmarks, 128)[:, :2]
    assert np.linalg.det(linear) > 0
    assert np.allclose(linear @ linear.T, np.linalg.det(linear) * np.eye(2), atol=1e-6)


def smooth_frame() -> np.ndarray:
    y, x = np.mgrid[0:300, 0:400]
    waves = (np.sin(x / 37), np.cos(y / 29), np.sin((x + y) / 51))
    return np.dstack([127 + 100 * wave for wave in waves]).astype(np.uint8)


@given(st.floats(-0.6, 0.6), st.floats(0.6, 1.8), st.floats(-40, 120), st.floats(-40, 60))
@settings(max_examples=40, deadline=None)
def test_a_crop_pasted_back_changes_next_to_nothing(angle, scale, right, down):
    frame = smooth_frame()
    transform = alignment(placed(angle, scale, right + 60, down + 60, 128), 128)
    pasted = frame.copy()
    paste_face(pasted, crop_face(frame, transform, 128), transform)
    assert np.abs(pasted.astype(int) - frame).max() <= 16
    assert np.abs(pasted.astype(int) - frame).mean() < 1.5


@given(placements)
@settings(max_examples=60, deadline=None)
def test_what_is_pasted_covers_the_face_and_nothing_else(placement):
    frame = np.zeros((300, 400, 3), np.uint8)
    landmarks = placed(*placement, 128)
    transform = alignment(landmarks, 128)
    white = np.full((128, 128, 3), 255, np.uint8)
    paste_face(frame, white, transform)
    height, width = frame.shape[:2]
    for x, y in np.round(landmarks).astype(int):
        if 0 <= x < width and 0 <= y < height:
            assert (frame[y, x] >= 253).all()
    far = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]])
    for (x, y, _), (u, v) in zip(far, far @ transform.T, strict=True):
        if not (-3 <= u <= 131 and -3 <= v <= 131):
            assert (frame[y, x] == 0).all()


@given(st.integers(1, 40), st.integers(1, 40), placements)
@settings(max_examples=60, deadline=None)
def test_any_frame_and_place(height, width, placement):
    frame = np.full((height, width, 3), 90, np.uint8)
    transform = alignment(placed(*placement, 64), 64)
    crop = crop_face(frame, transform, 64)
    assert crop.shape == (64, 64, 3)
    assert (crop == 90).all()
    paste_face(frame, crop, transform)
    assert np.abs(frame.astype(int) - 90).max() <= 1


@pytest.mark.skipif(
    not CROPPED_BY.startswith("dtir_ext") or int(cv2.__version__.split(".")[0]) < 5,
    reason="needs dtir_ext, and OpenCV 5, which does not round positions",
)
@given(placements)
@settings(max_examples=60, deadline=None)
def test_dtir_ext_does_as_opencv(portrait, placement):
    transform = alignment(placed(*placement, 128), 128)
    crop = crop_face(portrait, transform, 128)
    assert np.abs(crop.astype(int) - crop_face_with_opencv(portrait, transform, 128)).max() <= 1
    one, other = portrait.copy(), portrait.copy()
    paste_face(one, 255 - crop, transform)
    paste_face_with_opencv(other, 255 - crop, transform)
    assert np.abs(one.astype(int) - other).max() <= 1


def test_without_dtir_ext_opencv_does_it():
    code = (
        "import sys; sys.modules['dtir_ext'] = None\n"
        "import numpy as np\n"
        "from dtir_sdk.faces import CROPPED_BY, crop_face, paste_face\n"
        "assert CROPPED_BY == 'OpenCV'\n"
        "frame = np.full((40, 50, 3), 90, np.uint8)\n"
        "crop = crop_face(frame, np.eye(3)[:2], 16)\n"
        "assert (crop == 90).all()\n"
        "paste_face(frame, crop + 10, np.eye(3)[:2])\n"
        "assert frame[8, 8, 0] == 100\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_dtir_ext_that_cannot_be_loaded_is_told(tmp_path):
    """As one that was built for another Python."""
    (tmp_path / "dtir_ext").mkdir()
    (tmp_path / "dtir_ext/__init__.py").write_text("from dtir_ext._native import crop_faces")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from dtir_sdk import EngineError\n"
        "try:\n"
        "    from dtir_sdk import Pipeline\n"
        "except EngineError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert re.fullmatch(
        rb"dtir_ext is installed and cannot be loaded \(.*_native'\): install it again .*\n",
        done.stdout,
    )


@pytest.mark.parametrize("crop", [crop_face, crop_face_with_opencv])
def test_a_large_face_is_averaged_and_stays_in_its_place(crop):
    fine = np.zeros((600, 600, 3), np.uint8)
    fine[:, ::2] = 255
    averaged = crop(fine, np.array([[0.1, 0, -3], [0, 0.1, -2]]), 40)
    assert np.abs(averaged.astype(int) - 127).max() <= 20
    slope = np.repeat(2 * np.arange(120, dtype=np.uint8), 3 * 120).reshape(120, 120, 3)
    sloping = crop(slope.transpose(1, 0, 2), np.array([[0.25, 0, -3], [0, 0.25, -2]]), 20)
    expected = 2 * (np.arange(20) + 3) / 0.25
    assert np.abs(sloping[10, 1:-1, 0] - expected[1:-1]).max() <= 1


def test_frames_of_any_layout(portrait):
    transform = alignment(placed(0.2, 2.5, 10, 10, 64), 64)
    for view in (portrait[..., ::-1], portrait[::-1], portrait[5:200, 7:300], portrait[:, ::2]):
        packed = np.ascontiguousarray(view)
        crop = crop_face(view, transform, 64)
        assert (crop == crop_face(packed, transform, 64)).all()
        changed = view.copy(order="K")
        paste_face(changed, 255 - crop, transform)
        paste_face(packed, 255 - crop, transform)
        assert (changed == packed).all()


@pytest.mark.parametrize(
    "transform",
    [np.zeros((2, 3)), np.ones((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)],
)
def test_a_place_that_is_none(transform):
    frame = np.full((20, 20, 3), 9, np.uint8)
    with pytest.raises(PictureError, match="landmarks coincide"):
        crop_face(frame, transform, 8)
    with pytest.raises(PictureError, match="landmarks coincide"):
        paste_face(frame, frame[:8, :8].copy(), transform)
    assert (frame == 9).all()


def test_finds_the_face(portrait):
    found = FaceFinder().find(portrait)
    assert len(found) == 1
    x, y, width, height = found[0].box
    assert 150 < x < 220
    assert 80 < y < 160
    assert 120 < width < 220
    assert 160 < height < 280
    assert ((found[0].landmarks > (x, y)) & (found[0].landmarks < (x + width, y + height))).all()
    assert 0.6 <= found[0].confidence <= 1


def test_finds_the_face_at_another_size(portrait):
    wide = np.repeat(np.repeat(portrait, 3, axis=0), 3, axis=1)
    (small,), (large,) = FaceFinder().find(portrait), FaceFinder().find(wide)
    assert np.abs(np.array(large.box) / 3 - small.box).max() < 12


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_the_box_of_a_face_that_is_cut_off_ends_with_the_frame(portrait, side):
    x, y, width, height = FaceFinder().find(portrait)[0].box
    rows, columns = slice(None), slice(None)
    if side in ("left", "right"):
        columns = slice(x + width // 3, None) if side == "left" else slice(x + 2 * width // 3)
    else:
        rows = slice(y + height // 3, None) if side == "top" else slice(y + 2 * height // 3)
    frame = np.ascontiguousarray(portrait[rows, columns])
    (face,) = FaceFinder().find(frame)
    left, top, wide, high = face.box
    assert (left == 0) == (side == "left")
    assert (top == 0) == (side == "top")
    assert (left + wide == frame.shape[1]) == (side == "right")
    assert (top + high == frame.shape[0]) == (side == "bottom")


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 600, 3), (96, 128, 3), (15, 15, 3)])
def test_nothing_to_find(shape):
    assert FaceFinder().find(np.full(shape, 77, np.uint8)) == ()


@pytest.mark.parametrize(
    "frame", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3)), None, np.zeros((9, 9, 4), "u1")]
)
def test_what_is_no_frame(frame):
    with pytest.raises(PictureError, match="frame must"):
        FaceFinder().find(frame)
    with pytest.raises(PictureError, match="frame must"):
        crop_face(frame, np.eye(3)[:2], 8)


@pytest.mark.parametrize("size", [0, -1, 8.0, "8"])
def test_a_crop_of_no_size(size):
    with pytest.raises(ConfigurationError, match="size must be a whole number of 1 or more"):
        crop_face(np.zeros((20, 20, 3), np.uint8), np.eye(3)[:2], size)


@pytest.mark.parametrize(
    "options",
    [
        {"at_once": 0},
        {"at_once": 1.5},
        {"confidence": 5},
        {"confidence": "0.6"},
        {"longest_side": 0},
        {"longest_side": None},
    ],
)
def test_wrong_options(options):
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} must be"):
        FaceFinder(**options)
