from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dtir_sdk.composition import Cover, compose

SIZE = 32


@pytest.fixture
def frame() -> np.ndarray:
    """Stripes, which no blur that deserves the name leaves."""
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[:, ::2] = 255
    return picture


def cover(x: float, y: float, side: float, color: int | None) -> Cover:
    scale = SIZE / side
    cartoon = None if color is None else np.full((SIZE, SIZE, 3), color, np.uint8)
    return Cover(np.array([[scale, 0, -x * scale], [0, scale, -y * scale]]), cartoon)


def test_without_a_cover_nothing_of_the_frame_is_shown(frame):
    for surround in ("keep", "blur", "blank"):
        card = compose(frame, [], surround, SIZE)
        assert card.shape == frame.shape
        assert card.min() >= 128
        assert card.max() <= 200


@pytest.mark.parametrize("place", [(-60, 40), (200, 40), (60, -60), (60, 160)])
@pytest.mark.parametrize("surround", ["keep", "blur", "blank"])
def test_covers_beside_the_frame_count_as_none(frame, surround, place):
    left = [replace(cover(*place, 40, 77), growth=2.0), cover(*place, 30, None)]
    assert np.array_equal(compose(frame, left, surround, SIZE), compose(frame, [], surround, SIZE))


def test_a_turned_cover_beside_a_corner_of_the_frame_counts_as_none(frame):
    """The upright box about it reaches into the frame; the cover itself does not."""
    turned = cover(0, 0, 40, 77).transform
    half = np.sqrt(0.5)
    turned = np.array([[half, -half], [half, half]]) @ turned
    # Its middle lies 20 pixels off the corner in both directions.
    turned[:, 2] += SIZE / 2 - turned @ (-20, -20, 1)
    beside = Cover(turned, np.full((SIZE, SIZE, 3), 77, np.uint8))
    assert np.array_equal(compose(frame, [beside], "keep", SIZE), compose(frame, [], "keep", SIZE))
    turned[:, 2] -= turned[:, :2] @ (10, 10)
    assert (compose(frame, [beside], "keep", SIZE)[:5, :5] == 77).all()
    assert np.array_equal(compose(frame, [beside], "keep", SIZE)[80:], frame[80:])


def test_keep(frame):
    image = compose(frame, [cover(20, 30, 40, 77)], "keep", SIZE)
    assert (image[40:60, 30:50] == 77).all()
    assert np.array_equal(image[80:], frame[80:])
    assert not np.shares_memory(image, frame)


def test_blur(frame):
    image = compose(frame, [cover(20, 30, 40, 77)], "blur", SIZE)
    assert (image[40:60, 30:50] == 77).all()
    assert np.abs(image[80:].astype(int) - 127).max() <= 30


def test_blank(frame):
    image = compose(frame, [cover(20, 30, 40, 77)], "blank", SIZE)
    assert (image[40:60, 30:50] == 77).all()
    assert (image[80:] == 128).all()


def test_a_face_without_a_cartoon_is_covered_with_grey(frame):
    image = compose(frame, [cover(20, 30, 40, None)], "keep", SIZE)
    assert (image[40:60, 30:50] == 128).all()


def test_the_see_through_rim_of_a_cover_lies_outside_its_crop(frame):
    image = compose(frame, [cover(20, 30, 40, 77)], "keep", SIZE)
    assert (image[31:69, 21:59] == 77).all()


def test_a_cover_reaches_further_below_its_crop_than_above(frame):
    """A chin that is longer than others must not show."""
    frame[:] = 0
    rows = np.flatnonzero(compose(frame, [cover(20, 30, 40, 77)], "keep", SIZE).any(axis=(1, 2)))
    assert 1 <= 30 - rows.min() < rows.max() - 69


def test_a_grown_cover_keeps_its_centre(frame):
    image = compose(frame, [replace(cover(60, 40, 20, 77), growth=2.0)], "keep", SIZE)
    assert (image[31:69, 51:89] == 77).all()


def test_the_first_cover_lies_on_top(frame):
    image = compose(frame, [cover(20, 30, 40, 200), cover(30, 30, 40, 50)], "keep", SIZE)
    assert (image[40:60, 30:50] == 200).all()
    assert (image[40:60, 66:70] == 50).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (2000, 3, 3)])
@pytest.mark.parametrize("surround", ["keep", "blur", "blank"])
def test_odd_shapes(shape, surround):
    image = compose(np.zeros(shape, np.uint8), [cover(0, 0, 4, 9)], surround, SIZE)
    assert image.shape == shape
