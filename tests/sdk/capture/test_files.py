from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.capture import files
from dtir_sdk.capture.files import IterableSource, PictureSource, VideoSource
from dtir_sdk.errors import PictureError

FRAMES = 40


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """40 noisy frames at 20 a second, Motion JPEG."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    random = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (32, 24))
    for _ in range(FRAMES):
        writer.write(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    writer.release()
    return path


@settings(max_examples=10, deadline=None)
@given(pauses=st.lists(st.sampled_from([0.0, 0.002]), max_size=FRAMES))
def test_no_frame_of_a_video_is_lost(film, pauses):
    with VideoSource(film) as source:
        stamps = []
        for captured in source:
            stamps.append(captured.stamp)
            time.sleep(pauses.pop() if pauses else 0.0)
        assert source.dropped == 0
        assert list(source) == []
    assert [stamp.number for stamp in stamps] == list(range(FRAMES))
    assert np.allclose([stamp.seconds for stamp in stamps], np.arange(FRAMES) / 20)
    assert np.all(np.diff([stamp.captured for stamp in stamps]) > 0)


def test_what_a_video_tells_of_itself(film):
    with VideoSource(film) as source:
        assert (source.live, source.rate, source.length) == (False, 20, FRAMES)
        assert (source.name, source.file) == (str(film), film)


def test_a_whole_video_has_nothing_to_tell(film):
    told = []
    with VideoSource(film, told.append) as source:
        list(source)
    assert told == []


def test_a_video_that_is_cut_short(film, tmp_path):
    """The frames that are there are given, and that some are missing is told once."""
    cut = tmp_path / "cut.avi"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    told = []
    with VideoSource(cut, told.append) as source:
        given = len(list(source))
        assert list(source) == []
    assert 5 < given < FRAMES
    assert told == [
        f"{cut} ended after {given} of about {FRAMES} frames: it may be cut short or damaged"
    ]
    with VideoSource(cut) as source:
        assert len(list(source)) == given


def test_damaged_frames_are_told_of(film, tmp_path):
    damaged = tmp_path / "damaged.avi"
    data = film.read_bytes()
    # The 11th picture.
    start = [at for at in range(len(data)) if data.startswith(b"\xff\xd8\xff", at)][10]
    damaged.write_bytes(data[:start] + b"\0" * 300 + data[start + 300 :])
    told = []
    with VideoSource(damaged, told.append) as source:
        assert len(list(source)) == FRAMES - 1
    assert told == [f"{damaged}: damaged frames that were left out: 1"]


def test_a_video_is_closed_while_it_is_read(film, monkeypatch):
    """From another thread; OpenCV must not free what it reads."""
    reads, may_go_on = threading.Event(), threading.Event()
    done = []

    class Slow(files.VideoReader):
        def read(self):
            done.append("begins")
            reads.set()
            may_go_on.wait(30)
            try:
                return super().read()
            finally:
                done.append("ends")

        def close(self):
            done.append("closed")
            super().close()

    monkeypatch.setattr(files, "VideoReader", Slow)
    source = VideoSource(film)
    given = []
    reader = threading.Thread(target=lambda: given.extend(source))
    reader.start()
    assert reads.wait(30)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(0.02)
    may_go_on.set()
    reader.join(30)
    closer.join(30)
    before = done[: done.index("closed")]
    assert before.count("begins") == before.count("ends") >= 1
    assert done.count("closed") == 1
    assert list(source) == []


@pytest.fixture
def pictures(tmp_path, picture):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(10 * number, 20 + number, 30))
    return sorted(tmp_path.iterdir())


def test_pictures(pictures):
    with PictureSource("the folder", pictures) as source:
        assert (source.live, source.length, source.file) == (False, 3, None)
        captured = list(source)
    assert [one.picture.shape for one in captured] == [(20, 30, 3), (21, 30, 3), (22, 30, 3)]
    assert [one.stamp.number for one in captured] == [0, 1, 2]
    assert [one.stamp.seconds for one in captured] == [0, 0.04, 0.08]


def test_pictures_at_a_rate(pictures):
    with PictureSource("the folder", pictures, rate=2) as source:
        assert source.rate == 2
        assert [one.stamp.seconds for one in source] == [0, 0.5, 1]


def test_a_picture_that_cannot_be_read_is_passed_over(pictures):
    pictures[1].write_bytes(b"no picture")
    with PictureSource("the folder", pictures) as source:
        assert next(source).stamp.number == 0
        with pytest.raises(PictureError, match=r"1\.png is no picture"):
            next(source)
        assert next(source).stamp.number == 2
        assert list(source) == []


def test_closing_pictures(pictures):
    with PictureSource("the folder", pictures) as source:
        next(source)
        source.close()
        assert list(source) == []


def test_an_iterable(picture):
    buffer = picture(1)
    source = IterableSource([buffer, buffer[::2]], rate=10)
    assert (source.live, source.rate, source.length, source.file) == (False, 10, 2, None)
    first, second = source
    buffer[:] = 9
    assert first.picture.max() == second.picture.max() == 1
    assert second.picture.flags.c_contiguous
    assert [first.stamp.seconds, second.stamp.seconds] == [0, 0.1]


def test_an_iterator_is_read_no_further_than_it_is_used(picture):
    made = []

    def frames():
        for number in range(10):
            made.append(number)
            yield picture(number)

    with IterableSource(frames()) as source:
        assert source.length is None
        next(source)
    assert made == [0]
    assert list(source) == []
    assert made == [0]


@pytest.mark.parametrize("error", [TypeError, NotImplementedError])
def test_an_iterable_that_does_not_know_its_length(picture, error):
    class Endless:
        def __len__(self):
            raise error("of unknown length")

        def __iter__(self):
            return iter([picture(1)])

    with IterableSource(Endless()) as source:
        assert source.length is None
        assert len(list(source)) == 1


def test_an_iterators_own_error(picture):
    def frames():
        yield picture()
        raise ZeroDivisionError("the application's bug")

    source = IterableSource(frames())
    next(source)
    with pytest.raises(ZeroDivisionError, match="the application's bug"):
        next(source)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((4, 6)), "frame 1 must be uint8"),
        (np.zeros((4, 6), np.uint8), r"frame 1 must have the shape \[H, W, 3\]"),
        (None, "frame 1 must be a NumPy array"),
    ],
)
def test_an_iterable_of_something_else(picture, frame, words):
    source = IterableSource([picture(), frame])
    next(source)
    with pytest.raises(PictureError, match=words):
        next(source)


def test_an_iterable_closed_while_it_waits(picture):
    def frames():
        source.close()
        yield picture()

    source = IterableSource(frames())
    assert list(source) == []
