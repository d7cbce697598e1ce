from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.sinks.fitting import even_size, fit

sides = st.integers(1, 200)


@given(sides, sides, sides, sides)
def test_any_size_into_any(width, height, new_width, new_height):
    picture = np.full((height, width, 3), 90, np.uint8)
    fitted = fit(picture, new_width, new_height)
    assert fitted.shape == (new_height, new_width, 3)
    assert fitted.flags.c_contiguous
    inside = (fitted == 90).all(2)
    assert inside.any()
    # What is not the picture is black, and in one direction the picture fills all.
    assert (fitted[~inside] == 0).all()
    assert inside.any(0).all() or inside.any(1).all()


@given(sides, sides)
def test_even(width, height):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = even_size(picture)
    fitted = fit(picture, *size)
    assert not any(side % 2 for side in size)
    assert (fitted[:height, :width] == picture).all()


def test_unchanged_is_the_same():
    picture = np.zeros((4, 6, 3), np.uint8)
    assert fit(picture, 6, 4) is picture
