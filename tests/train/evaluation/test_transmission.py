from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dtir_sdk.errors import ConfigurationError
from dtir_train.evaluation.transmission import (
    H264,
    STANDARD_CHANNELS,
    Half,
    Jpeg,
    Noise,
    open_channel,
)

batches = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 2), st.integers(16, 21), st.integers(16, 21), st.just(3))
)


def cartoons(count: int = 2, size: int = 64) -> np.ndarray:
    """Flat shapes with hard edges, as cartoons have them, and a slope."""
    pictures = np.full((count, size, size, 3), (200, 190, 180), np.uint8)
    for number, picture in enumerate(pictures):
        cv2.circle(picture, (size // 2, size // 2 + number), size // 3, (90, 140, 220), -1)
        cv2.line(picture, (size // 4, size // 2), (size // 2, size // 3), (20, 20, 30), 2)
        picture[:, -size // 4 :, 1] = np.arange(size)[:, None] * 255 // size
    return pictures


def error(name: str, pictures: np.ndarray) -> float:
    arrived = open_channel(name)(pictures).pictures
    return float(((arrived.astype(float) - pictures) ** 2).mean())


@pytest.mark.parametrize("name", ["bytes", *STANDARD_CHANNELS])
@given(pictures=batches)
def test_what_arrives_has_the_shape_of_what_was_sent(name, pictures):
    before = pictures.copy()
    channel = open_channel(name)
    one, again = channel(pictures), channel(pictures)
    assert one.pictures.shape == pictures.shape
    assert one.pictures.dtype == np.uint8
    assert not np.shares_memory(one.pictures, pictures)
    assert np.array_equal(one.pictures, again.pictures)
    assert np.array_equal(pictures, before)


@given(batches)
def test_bytes_lose_nothing(pictures):
    arrival = open_channel("bytes")(pictures)
    assert np.array_equal(arrival.pictures, pictures)
    assert arrival.kilobytes is None


@pytest.mark.parametrize("name", STANDARD_CHANNELS)
def test_every_channel_loses_something_and_not_all(name):
    assert 0 < error(name, cartoons()) < 600


@pytest.mark.parametrize(
    "names",
    [
        ("jpeg-95", "jpeg-75", "jpeg-50", "jpeg-5"),
        ("h264-10", "h264-23", "h264-28", "h264-45"),
        ("noise-0", "noise-2", "noise-5", "noise-10"),
    ],
)
def test_a_lower_quality_loses_more(names):
    errors = [error(name, cartoons()) for name in names]
    assert errors == sorted(set(errors))


@pytest.mark.parametrize("kind", [Jpeg, H264])
def test_a_lower_quality_takes_fewer_bytes(kind):
    fine, coarse = (kind(q)(cartoons()).kilobytes for q in ((95, 30) if kind is Jpeg else (10, 40)))
    assert 0 < coarse < fine < cartoons()[0].nbytes / 1000


def test_jpeg_is_opencvs_with_colours_shared_by_four_pixels():
    arrival = Jpeg(75)(cartoons(1))
    _, stream = cv2.imencode(".jpg", cartoons(1)[0], [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert np.array_equal(arrival.pictures[0], cv2.imdecode(stream, cv2.IMREAD_COLOR))
    assert arrival.kilobytes == pytest.approx(len(stream) / 1000)


@pytest.mark.parametrize("name", ["jpeg-100", "h264-0"])
def test_colour_is_shared_by_four_pixels(name):
    grid = np.indices((32, 32)).sum(axis=0) % 2
    # A board of two colours of one brightness is what 4:2:0 cannot carry.
    colours = np.array([[40, 120, 200], [200, 120, 57]], np.uint8)
    arrived = open_channel(name)(colours[grid][None]).pictures[0].astype(int)
    spread = arrived[..., 0].max() - arrived[..., 0].min()
    assert spread < (200 - 40) / 2


def test_an_odd_side_keeps_its_rim():
    """The last row is not lost where the film takes even sides only."""
    pictures = np.full((1, 33, 31, 3), 40, np.uint8)
    pictures[:, -1:, :, :] = pictures[:, :, -1:, :] = 220
    arrived = H264(10)(pictures).pictures.astype(int)
    assert abs(arrived[0, -1] - 220).max() < 30
    assert abs(arrived[0, :, -1] - 220).max() < 30
    assert abs(arrived[0, :-2, :-2] - 40).max() < 30


@given(st.integers(0, 255), st.integers(16, 21))
def test_half_keeps_what_is_flat(shade, side):
    pictures = np.full((1, side, side + 1, 3), shade, np.uint8)
    assert np.array_equal(Half()(pictures).pictures, pictures)


def test_half_loses_what_is_finer_than_two_pixels():
    board = (np.indices((16, 16)).sum(axis=0) % 2 * 100).astype(np.uint8)
    arrived = Half()(np.repeat(board[None, ..., None], 3, axis=3)).pictures
    assert (arrived == 50).all()


def test_noise_is_as_strong_as_asked_for_and_its_own_in_every_picture():
    grey = np.full((2, 128, 128, 3), 128, np.uint8)
    first, second = Noise(10)(grey).pictures.astype(float) - 128
    assert first.std() == pytest.approx(10, rel=0.03)
    assert abs(first.mean()) < 0.2
    assert not np.array_equal(first, second)
    assert not np.array_equal(Noise(10, seed=1)(grey).pictures[0] - 128.0, first)


def test_noise_stays_in_range():
    arrived = Noise(200)(np.full((1, 16, 16, 3), 250, np.uint8)).pictures
    assert arrived.max() == 255
    assert arrived.min() == 0


@pytest.mark.parametrize(
    "name",
    ["", "jpeg", "jpeg-", "jpeg-75.5", "jpeg--5", "png-3", "half-2", "JPEG-75", "noise-٣", "h264"],
)
def test_a_name_of_no_channel_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"names no channel: there are bytes, jpeg-QUALI"):
        open_channel(name)


@given(st.text())
def test_any_text_is_a_channel_or_refused(name):
    with pytest.raises(ConfigurationError):
        open_channel("x" + name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpeg-0", "JPEG quality is 0: it must be from 1 to 100"),
        ("jpeg-101", "JPEG quality is 101"),
        ("h264-52", "H.264 crf is 52: it must be from 0 to 51"),
        ("noise-256", "noise sigma is 256"),
    ],
)
def test_a_number_out_of_range_is_refused(name, message):
    with pytest.raises(ConfigurationError, match=message):
        open_channel(name)


def test_without_pyav_there_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(
        ConfigurationError, match=r'^h264-23 needs PyAV: pip install "dtir\[video\]'
    ):
        open_channel("h264-23")
    assert open_channel("jpeg-75") == Jpeg(75)


def test_a_pyav_without_x264_is_refused(monkeypatch):
    monkeypatch.setattr("av.codec.codecs_available", {"h264", "mpeg4"})
    with pytest.raises(ConfigurationError, match="built without x264"):
        open_channel("h264-28")
