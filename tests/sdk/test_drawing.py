from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.drawing import label_box, neutral_card, side_by_side


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_card_of_any_size(height, width):
    card = neutral_card(height, width)
    assert card.shape == (height, width, 3)
    assert card.dtype == np.uint8
    assert card.min() == 128


def test_card_holds_text():
    assert neutral_card(100, 200).max() > 150
    assert neutral_card(100, 200, "").max() == 128


def test_label_at_the_rim_of_a_small_picture():
    for box in ((0, 0, 5, 5), (-3, -3, 50, 50), (4, 4, 1, 1)):
        picture = np.zeros((10, 10, 3), np.uint8)
        label_box(picture, box, "a long label")
        assert picture.any()


def test_table():
    dark, light = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 200, np.uint8)
    table = side_by_side([[dark, light], [light, dark]], ["photo", "cartoon"])
    assert table.shape == (20 + 2 * 264, 520, 3)
    assert table[100, 100].tolist() == [0, 0, 0]
    assert table[100, 400].tolist() == [200, 200, 200]
    assert table[400, 100].tolist() == [200, 200, 200]
