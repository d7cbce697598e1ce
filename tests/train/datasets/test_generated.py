from __future__ import annotations

import numpy as np

from dtir_train.datasets.generated import LABELS, generated_secret, generated_target


def test_secret_pictures_and_labels():
    pictures, labels = generated_secret(10, 32, 0)
    assert pictures.shape == (10, 32, 32, 3)
    assert pictures.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [5, 5]
    assert len(LABELS) == 2


def test_a_seed_gives_the_same_pictures_and_another_gives_others():
    once, again, other = (generated_secret(4, 32, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    once, again, other = (generated_target(4, 32, seed) for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_the_label_is_the_shape():
    # A square fills the box around it, a disc about pi / 4 of it.
    for picture, label in zip(*generated_secret(40, 64, 3), strict=True):
        shade = np.median(picture[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
        drawn = np.abs(picture.astype(float) - shade).mean(axis=2) > 50
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        box = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box.mean() > 0.9) == (LABELS[label] == "square")


def test_target_pictures_are_flat_drawings_on_white():
    pictures = generated_target(10, 32, 0)
    assert pictures.shape == (10, 32, 32, 3)
    for picture in pictures:
        white = (picture == 255).all(axis=2)
        assert 0.4 < white.mean() < 0.95
