from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.pictures import read_picture
from dtir_sdk.results import Face, FrameStamp, Result, Timings


@pytest.fixture(params=["bgr", "rgb"])
def result(request) -> Result:
    image = np.zeros((120, 160, 3), np.uint8)
    image[..., 0 if request.param == "bgr" else 2] = 200
    face = Face(
        box=(40, 30, 50, 60),
        label="männlich",
        confidence=0.75,
        probabilities={"männlich": 0.75, "weiblich": 0.25},
        cartoon=np.zeros((32, 32, 3), np.uint8),
        landmarks=np.ones((5, 2), np.float32),
    )
    return Result((face,), image, Timings(1, 1, 1, 3, 4, 10.00049, 1.5, 2.5), request.param)


def test_frozen(result):
    with pytest.raises(FrozenInstanceError):
        result.image = None
    with pytest.raises(FrozenInstanceError):
        result.faces[0].label = "other"


def test_saves_in_the_right_colors(result, tmp_path):
    result.save(tmp_path / "safe.png")
    assert read_picture(tmp_path / "safe.png")[0, 0].tolist() == [200, 0, 0]


def test_json(result):
    text = result.to_json()
    assert "\n" not in text
    document = json.loads(text)
    assert document["faces"][0]["label"] == "männlich"
    assert document["faces"][0]["box"] == [40, 30, 50, 60]
    assert document["faces"][0]["probabilities"] == {"männlich": 0.75, "weiblich": 0.25}
    assert document["timings_ms"]["total"] == 10.0


def test_what_is_no_json_is_not_written(result):
    stamp = FrameStamp(0, float("inf"), 0.0)
    with pytest.raises(ValueError, match="JSON"):
        replace(result, stamp=stamp).to_json()


def test_json_of_a_frame(result):
    """Where and when each person was, and whether that is known."""
    (face,) = result.faces
    landmarks = np.array([[1.234, 2], [3, 4], [5, 6], [7, 8], [9, 10]], np.float32)
    held = replace(face, landmarks=landmarks, track=3, seen=False)
    frame = replace(result, faces=(held,), stamp=FrameStamp(7, 0.28, 99.0))
    document = json.loads(frame.to_json())
    assert (document["frame"], document["seconds"]) == (7, 0.28)
    (told,) = document["faces"]
    assert (told["track"], told["seen"]) == (3, False)
    assert told["landmarks"] == [[1.23, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    (alone,) = json.loads(result.to_json())["faces"]
    assert not {"track", "seen"} & alone.keys()


def test_plot_draws_on_a_copy(result):
    before = result.image.copy()
    plot = result.plot()
    assert plot.shape == result.image.shape
    assert np.array_equal(result.image, before)
    assert plot[119, 159].tolist() == [200, 0, 0]
    assert (plot[30, 40:90] == 255).all()


def test_pictures_are_not_in_the_repr(result):
    assert "array" not in repr(result)


@pytest.mark.usefixtures("full_disk")
def test_full_disk(result, tmp_path):
    with pytest.raises(OutputError, match="no space left"):
        result.save(tmp_path / "safe.png")
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix(result, tmp_path):
    with pytest.raises(OutputError, match="suffix"):
        result.save(tmp_path / "safe")
