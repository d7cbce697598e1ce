from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.capture import Source, live, opening
from dtir_sdk.capture.files import IterableSource, PictureSource, VideoSource
from dtir_sdk.errors import ConfigurationError, PictureError, SourceError


@pytest.fixture
def folder(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    cv2.imwrite(str(tmp_path / "b.jpg"), picture(2))
    return tmp_path


@pytest.fixture
def film(tmp_path, picture):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for level in range(3):
        writer.write(picture(level))
    writer.release()
    return path


@pytest.fixture
def cameras(monkeypatch, scripted, picture):
    """Which cameras were opened, and with what; each gives one frame and ends."""
    opened = []

    def open_camera(camera, **options):
        opened.append((camera, options))
        return scripted([picture()])

    monkeypatch.setattr(opening, "Camera", open_camera)
    return opened


@pytest.mark.parametrize(
    ("uri", "camera"),
    [
        (0, 0),
        ("2", 2),
        (np.int64(3), 3),
        ("/dev/video7", Path("/dev/video7")),
        (Path("/dev/video7"), Path("/dev/video7")),
        ("/dev/null", Path("/dev/null")),
    ],
)
def test_cameras(cameras, uri, camera):
    with Source.open(uri, width=1280, height=720, rate=30) as source:
        assert source.live
        assert source.name == f"camera {camera}"
        assert [captured.stamp.number for captured in source] == [0]
    ((named, options),) = cameras
    assert named == camera
    assert (options["width"], options["height"], options["rate"]) == (1280, 720, 30)


def test_a_camera_may_take_longer_to_open(monkeypatch, scripted, picture):
    def open_camera(*_, **__):
        time.sleep(0.05)
        return scripted([picture()])

    monkeypatch.setattr(live, "_GRACE", 0.0)
    monkeypatch.setattr(opening, "Camera", open_camera)
    with Source.open(0, timeout=0.01) as source:
        assert source.name == "camera 0"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is in the way")
@pytest.mark.parametrize("uri", [63, "63", "/dev/video63"])
def test_a_camera_that_is_not_there(uri):
    with pytest.raises(SourceError, match=r"camera (/dev/video)?63 is not there: plug it in"):
        Source.open(uri)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says which cameras there are")
def test_a_folder_whose_name_is_a_number(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("63").symlink_to(folder)
    with pytest.raises(SourceError, match=r"camera 63 is not there, but a f.*: write \./63"):
        Source.open("63")
    for name in ("./63", Path("63")):
        with Source.open(name) as source:
            assert (source.live, source.length) == (False, 2)


@pytest.mark.parametrize("name", ["99999999999", "9" * 5000, "a" * 300])
def test_a_name_that_no_camera_has(name):
    with pytest.raises(PictureError, match=r"is not there|could not be read"):
        Source.open(name)


def test_a_stream(server, picture):
    server.scripts = [[picture()] * 6]
    with Source.open(server.address, timeout=30, reconnects=0) as source:
        assert source.live
        assert source.name == server.address
        assert list(source)[-1].stamp.number == 5


def test_a_stream_that_never_answers_is_told_on_opening(server):
    server.scripts = [["mute"]]
    address = server.address.replace("//", "//user:secret@")
    with pytest.raises(SourceError, match="did not answer") as caught:
        Source.open(address, timeout=0.2)
    assert "secret" not in str(caught.value)


def test_a_stream_of_another_kind():
    with pytest.raises(SourceError, match=r"ftp://\*\*\*@host/x is no stream .* rtsp://"):
        Source.open("ftp://user:secret@host/x")


def test_a_video(film):
    with Source.open(str(film)) as source:
        assert isinstance(source, VideoSource)
        assert [captured.stamp.seconds for captured in source] == [0, 0.1, 0.2]


def test_a_video_alone_in_its_folder(film):
    with Source.open(film.parent) as source:
        assert source.file == film


def test_pictures(folder):
    for uri, count in ((folder / "a.png", 1), (folder, 2), (f"{folder}/*.[jp]*", 2)):
        with Source.open(uri, rate=2) as source:
            assert isinstance(source, PictureSource)
            assert not source.live
            assert [captured.picture.max() for captured in source] == [1, 2][:count]


def test_the_sample():
    with Source.open("sample") as source:
        assert len(list(source)) == 1


@pytest.mark.usefixtures("folder")
def test_videos_among_pictures(film):
    with pytest.raises(PictureError, match=r"holds film\.avi: open each video on its own"):
        Source.open(film.parent)


def test_nothing_there(tmp_path):
    for name in ("film.mp4", "a.png", "*.png"):
        with pytest.raises(PictureError, match=r"is not there|no file fits"):
            Source.open(tmp_path / name)


def test_an_iterable(picture):
    with Source.open(iter([picture()])) as source:
        assert isinstance(source, IterableSource)
        assert len(list(source)) == 1


@pytest.mark.parametrize("live", [False, True])
def test_an_iterable_in_rgb(live):
    frame = np.full((4, 6, 3), (1, 2, 3), np.uint8)
    with Source.open([frame], color="rgb", live=live) as source:
        (captured,) = source
    assert captured.picture[0, 0].tolist() == [3, 2, 1]
    assert captured.picture.flags.c_contiguous


def test_an_array_of_frames():
    with Source.open(np.zeros((3, 4, 6, 3), np.uint8)) as source:
        assert source.length == 3
        assert len(list(source)) == 3


def test_a_live_iterable(picture):
    with Source.open((picture(level) for level in range(3)), live=True) as source:
        assert source.live
        given = list(source)
        assert given[-1].picture.max() == 2
        assert len(given) + source.dropped == 3


def test_a_live_iterables_own_error(picture):
    def frames():
        yield picture()
        raise ZeroDivisionError("the application's bug")

    with Source.open(frames(), live=True) as source:
        next(source)
        with pytest.raises(ZeroDivisionError, match="the application's bug"):
            next(source)


@pytest.mark.parametrize(
    ("uri", "options", "words"),
    [
        (0, {"live": False}, "a camera is live"),
        ("rtsp://host/x", {"live": False}, "a stream is live"),
        ("rtsp://host/x", {"rate": 30}, "a rate of its own"),
        ("rtsp://host/x", {"width": 640}, "are for cameras"),
        ("sample", {"live": True}, "files are not live"),
        ("sample", {"height": 480}, "are for cameras"),
        ([], {"live": True, "rate": 30}, "a rate of its own"),
        (-1, {}, "number is from 0 to 2147483647"),
        (99999999999, {}, "number is from 0 to 2147483647"),
        (True, {}, "not True"),
        (None, {}, "not None"),
        (1.5, {}, "not 1.5"),
        (0, {"color": "rgb"}, "color is for iterables"),
        ("sample", {"color": "rgb"}, "color is for iterables"),
        ([], {"color": "cmyk"}, "color must be"),
        (0, {"width": 0}, "width must be a whole number of 1 or more, not 0"),
        (0, {"height": -1}, "height must be a whole number of 1 or more"),
        (0, {"width": "640"}, "width must be a whole number of 1 or more, not '640'"),
        (0, {"rate": float("nan")}, "rate must be more than 0"),
        (0, {"rate": "25"}, "rate must be more than 0, not '25'"),
        (0, {"rate": True}, "rate must be more than 0"),
        (0, {"timeout": 0}, "timeout must be"),
        (0, {"timeout": float("inf")}, "timeout must be"),
        (0, {"timeout": None}, "timeout must be"),
        (0, {"reconnects": -1}, "reconnects must be"),
        (0, {"reconnects": 1.5}, "reconnects must be"),
        (0, {"reconnects": None}, "reconnects must be"),
        ([], {"live": "no"}, "live must be True, False or None, not 'no'"),
    ],
)
def test_misuse(uri, options, words):
    with pytest.raises(ConfigurationError, match=words):
        Source.open(uri, **options)


def test_a_video_has_a_rate_of_its_own(film):
    with pytest.raises(ConfigurationError, match="a rate of its own"):
        Source.open(film, rate=10)
