from __future__ import annotations

import cv2
import numpy as np
import pytest

from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.evaluation.same_photographs import are_among

SIDE = 128


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return read_picture(SAMPLE_PORTRAIT)


def aligned(picture: np.ndarray, moved: tuple[float, float] = (0, 0), zoom: float = 1.0):
    """The face cut out as the SDK does, its landmarks found a little elsewhere."""
    landmarks = FaceFinder().find(picture)[0].landmarks
    centre = landmarks.mean(axis=0)
    found = (centre + (landmarks - centre) * zoom + moved).astype(np.float32)
    return crop_face(picture, alignment(found, SIDE), SIDE)


@pytest.fixture(scope="module")
def others(portrait) -> np.ndarray:
    """The portrait among what is like a face, and what is not."""
    noise = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    grey = np.full((1, SIDE, SIDE, 3), 90, np.uint8)
    return np.concatenate([noise, grey, aligned(portrait)[np.newaxis]])


def found(picture: np.ndarray, others: np.ndarray) -> bool:
    (answer,) = are_among(picture[np.newaxis], others, "looking")
    return bool(answer)


@pytest.mark.parametrize("zoom", [0.95, 1.0, 1.06])
@pytest.mark.parametrize("moved", [(0, 0), (9, -7)])
def test_a_photograph_is_known_again_however_it_was_cut_out(portrait, others, moved, zoom):
    assert found(aligned(portrait, moved, zoom), others)


def test_a_photograph_is_known_again_smaller_darker_and_from_a_jpeg(portrait, others):
    small = cv2.resize(portrait, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 60))[1], 1)
    dark = (40 + jpeg * 0.6).astype(np.uint8)
    assert found(aligned(dark), others)
    assert found(cv2.cvtColor(cv2.cvtColor(aligned(dark), 6), 8), others)


@pytest.mark.parametrize("moved", [(0, 0), (9, -7)])
def test_a_photograph_is_known_again_among_many_that_lie_nearer(portrait, moved):
    """Only the likest few are looked at closely: those that lie alike are not the likest yet."""
    mirrored = portrait[:, ::-1].copy()
    places = [(moved[0] + right, moved[1] + down) for right in (-2, 0, 2) for down in (-2, 0, 2)]
    many = [aligned(mirrored, place) for place in places]
    picture = aligned(portrait, moved)
    assert not found(picture, np.stack(many))
    assert found(picture, np.stack([*many, aligned(portrait)]))


def test_another_face_is_another_photograph(portrait, others):
    assert not found(aligned(portrait[:, ::-1].copy()), others)
    assert not found(np.full((SIDE, SIDE, 3), 90, np.uint8), others)


def test_each_is_looked_for_by_itself(portrait, others):
    pictures = np.stack([aligned(portrait), others[0], aligned(portrait[:, ::-1].copy())])
    answers = are_among(pictures, others[1:], "looking")
    assert answers.tolist() == [True, False, False]


def test_none_of_one_other(portrait, others):
    assert not found(aligned(portrait), others[:1])
