from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dtir_sdk import videos
from dtir_sdk.errors import OutputError, PictureError
from dtir_sdk.videos import VideoReader, writing


def frames(count: int) -> list[np.ndarray]:
    return [np.full((64, 96, 3), 10 * number, np.uint8) for number in range(count)]


def write(path, count=12, rate=10.0):
    with writing(path, rate) as writer:
        for frame in frames(count):
            writer.write(frame)
    return path


def test_every_frame_in_order(tmp_path):
    path = write(tmp_path / "film.mp4")
    with VideoReader(path) as video:
        assert video.rate == pytest.approx(10)
        assert video.length == 12
        levels = [frame.mean() for frame in video]
    assert np.allclose(levels, [10 * number for number in range(12)], atol=4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"no film", b"\0" * 5000])
def test_no_video(tmp_path, data):
    (tmp_path / "film.mp4").write_bytes(data)
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(tmp_path / "film.mp4")


def test_cut_short(tmp_path):
    path = write(tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(path)


def test_missing_and_empty(tmp_path):
    with pytest.raises(PictureError, match="is not there"):
        VideoReader(tmp_path / "film.mp4")
    (tmp_path / "film.mp4").touch()
    with pytest.raises(PictureError, match="is empty"):
        VideoReader(tmp_path / "film.mp4")


def test_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "film.mp4", 10) as writer:
        writer.write(frames(1)[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_frames_that_did_not_arrive(tmp_path, monkeypatch):
    """OpenCV's writer is silent when the disk is full: the file is short."""

    class Short(videos.VideoReader):
        def __init__(self, path):
            super().__init__(path)
            self.length = 1

    monkeypatch.setattr(videos, "VideoReader", Short)
    with pytest.raises(OutputError, match="could not be written whole"):
        write(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_nothing_at_all_arrived(tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, *_):
            Path(path).touch()

        def isOpened(self):  # noqa: N802
            return True

        def write(self, frame):
            pass

        def release(self):
            pass

        fourcc = staticmethod(lambda *_: 0)

    monkeypatch.setattr(videos.cv2, "VideoWriter", Full)
    with pytest.raises(OutputError, match="could not be written whole"):
        write(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_full_disk(tmp_path):
    with pytest.raises(OutputError, match="no space left"):
        write(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []
