from __future__ import annotations

import numpy as np
import pytest

from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_train.datasets.crops import square_crop


@pytest.mark.parametrize("shape", [(32, 32), (20, 60), (90, 41), (1, 1)])
def test_without_a_finder_the_whole_picture_is_stretched(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    picture[..., 1] = 200
    crop = square_crop(picture, 32, None)
    assert crop.dtype == np.uint8
    assert (crop == np.full((32, 32, 3), (0, 200, 0))).all()


@pytest.mark.parametrize("shape", [(20, 1000), (1000, 20), (400, 400)])
def test_what_is_made_smaller_is_averaged_along_each_side(shape):
    """Not sampled: a fine pattern becomes grey."""
    checkers = np.indices(shape).sum(axis=0) % 2 * 255
    crop = square_crop(np.stack([checkers.astype(np.uint8)] * 3, axis=2), 32, None)
    assert 100 < crop.min() <= crop.max() < 155


def test_with_a_finder_it_is_the_sdks_own_crop(portrait):
    finder = FaceFinder()
    expected = crop_face(portrait, alignment(finder.find(portrait)[0].landmarks, 64), 64)
    assert np.array_equal(square_crop(portrait, 64, finder), expected)


def test_without_a_face_there_is_no_crop():
    assert square_crop(np.full((80, 80, 3), 128, np.uint8), 32, FaceFinder()) is None
