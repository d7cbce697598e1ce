from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks import Origin, open_sink


@pytest.fixture(autouse=True)
def without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (taken := capture.read())[0]:
        frames.append(taken[1])
    return capture.get(cv2.CAP_PROP_FPS), frames


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_every_frame(tmp_path, result, color):
    path = tmp_path / "film.mp4"
    with open_sink(str(path), Origin(rate=10)) as sink:
        for number in range(12):
            sink.write(result(number, color=color, size=(95, 63)))
        sink.write(result(12, color=color, size=(50, 50)))
    rate, frames = frames_of(path)
    assert rate == pytest.approx(10)
    assert len(frames) == 13
    assert frames[0].shape == (64, 96, 3)
    assert np.abs(frames[5].astype(int) - (200, 60, 20)).max() < 12
    assert list(tmp_path.iterdir()) == [path]
    assert "no sound and a constant frame rate, since PyAV is not installed" in sink.notes[0]


def test_a_colon_is_no_protocol(tmp_path, result, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_sink("12:30.mp4") as sink:
        sink.write(result(0))
    assert [path.name for path in tmp_path.iterdir()] == ["12:30.mp4"]
    assert len(frames_of(tmp_path / "12:30.mp4")[1]) == 1


def test_interrupted(tmp_path, result):
    sink = open_sink(str(tmp_path / "film.mp4"))
    with pytest.raises(KeyboardInterrupt), sink:
        sink.write(result(0))
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["film.partial.mp4"]
    assert len(frames_of(tmp_path / "film.partial.mp4")[1]) == 1


def test_no_frame(tmp_path):
    with open_sink(str(tmp_path / "film.mp4")) as sink:
        pass
    assert "no frame was written" in sink.notes[-1]
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path, result, small_disk):
    """OpenCV's writer is silent when the disk is full: the file is looked at."""
    sink = open_sink(str(tmp_path / "film.mp4"))
    with small_disk(20_000):
        for number in range(20):
            written = result(number)
            written.image[:] = np.random.default_rng(number).integers(0, 256, (64, 96, 3))
            sink.write(written)
        with pytest.raises(OutputError, match="could not be written whole: is the disk full"):
            sink.close()
    assert list(tmp_path.iterdir()) == []


def test_cannot_encode(tmp_path, result, monkeypatch):
    class Closed:
        fourcc = staticmethod(lambda *_: 0)

        def __init__(self, *_):
            pass

        def isOpened(self):  # noqa: N802
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoWriter", Closed)
    refused = pytest.raises(OutputError, match="could not be opened for writing a video")
    with open_sink(str(tmp_path / "film.mp4")) as sink, refused:
        sink.write(result(0))
    assert list(tmp_path.iterdir()) == []


def test_after_close(tmp_path, result):
    sink = open_sink(str(tmp_path / "film.mp4"))
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result())
