from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from dtir_sdk.capture import Source, devices
from dtir_sdk.capture.devices import Camera, LiveFrames, NetworkStream
from dtir_sdk.capture.live import LiveSource
from dtir_sdk.errors import PictureError, SourceError


class FakeCapture:
    """Stands in for cv2.VideoCapture: a camera that gives 640x480, and these frames."""

    def __init__(self, frames=(), opens=True):
        self.settings = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: 30.0,
        }
        self.fixed = False
        self.arguments = None
        self.released = False
        self._opens = opens
        self._frames = iter(frames)

    def __call__(self, *arguments):
        self.arguments = arguments
        return self

    def isOpened(self):  # noqa: N802, OpenCV's name
        return self._opens

    def get(self, key):
        return self.settings[key]

    def set(self, key, value):
        if not self.fixed:
            self.settings[key] = float(value)
        return not self.fixed

    def read(self):
        frame = next(self._frames, None)
        return frame is not None, frame

    def release(self):
        self.released = True


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """Opens a camera of which OpenCV gives these frames; its device is an empty file."""
    node = tmp_path / "video0"
    node.touch()
    told = []

    def open_camera(frames=(), *, opens=True, fixed=False, timeout=1.0, **wishes):
        capture = FakeCapture(frames, opens)
        capture.fixed = fixed
        monkeypatch.setattr(devices.cv2, "VideoCapture", capture)
        return Camera(node, timeout=timeout, tell=told.append, **wishes), capture

    open_camera.node, open_camera.told = node, told
    return open_camera


def test_a_cameras_frames(camera, picture):
    opened, capture = camera([picture(1), picture(2)])
    assert [opened.read().max(), opened.read().max()] == [1, 2]
    assert (opened.rate, opened.length) == (30.0, None)
    assert capture.settings[cv2.CAP_PROP_BUFFERSIZE] == 2
    opened.close()
    assert capture.released


def test_damaged_frames_of_a_camera_are_passed_over(camera, picture):
    opened, _ = camera([None, None, picture(3)])
    assert opened.read().max() == 3


def test_a_camera_that_stops(camera):
    opened, _ = camera()
    with pytest.raises(SourceError, match=r"video0 stopped giving frames: check its cable"):
        opened.read()


def test_a_camera_is_not_asked_again_after_its_time(camera, picture):
    opened, _ = camera([None, picture()], timeout=1e-9)
    with pytest.raises(SourceError, match="stopped giving frames"):
        opened.read()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has a file for each camera")
def test_a_camera_that_is_pulled_out(camera, picture):
    opened, _ = camera([picture()])
    opened.read()
    camera.node.unlink()
    with pytest.raises(SourceError, match="video0 was unplugged: plug it in and start again"):
        opened.read()


def test_wishes(camera):
    opened, capture = camera(width=1280, height=720, rate=60.0)
    assert capture.settings[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert capture.settings[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    assert opened.rate == 60
    assert camera.told == []


def test_wishes_that_are_not_met_are_told(camera):
    camera(width=1280, fixed=True)
    (line,) = camera.told
    assert line.endswith("video0 gives 640x480 at 30 frames a second instead")


def test_a_frame_that_is_no_picture(camera):
    opened, _ = camera([np.zeros((4, 6), np.uint16)])
    with pytest.raises(PictureError, match="must be uint8"):
        opened.read()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is in the way")
def test_a_camera_that_is_not_there():
    with pytest.raises(SourceError, match="camera 63 is not there: plug it in"):
        Camera(63, timeout=1.0, tell=print)


def test_a_camera_that_does_not_open(camera, monkeypatch):
    monkeypatch.setattr(devices.v4l, "obstacle", lambda _: None)
    with pytest.raises(SourceError, match=r"video0 could not be opened: check that it is plugged"):
        camera(opens=False)


def test_iterables_are_checked_and_copied(picture):
    buffer = picture(1)
    device = LiveFrames([buffer, buffer[:, ::2], np.zeros((2, 2))])
    first = device.read()
    buffer[:] = 9
    assert first.max() == 1
    second = device.read()
    assert second.flags.c_contiguous
    assert not np.shares_memory(second, buffer)
    with pytest.raises(PictureError, match="frame 2 must be uint8"):
        device.read()


# Seconds: of what falls silent on purpose, and of what must not, however busy the machine.
SHORT, LONG = 1.0, 30.0


def live(server, timeout=LONG, **options):
    return LiveSource(
        "the stream",
        lambda: NetworkStream(server.address, timeout),
        timeout=timeout,
        first_delay=0.01,
        **options,
    )


def frames_of(stream):
    """All frames of a stream, which is closed."""
    frames = []
    while (frame := stream.read()) is not None:
        frames.append(frame)
    stream.close()
    return frames


def test_a_stream_that_ends(server, picture):
    server.scripts = [[picture(40 * number) for number in range(6)]]
    stream = NetworkStream(server.address, LONG)
    frames = frames_of(stream)
    assert {(frame.dtype, frame.shape) for frame in frames} == {(np.dtype(np.uint8), (24, 32, 3))}
    assert np.allclose(
        [frame.mean() for frame in frames], [40 * number for number in range(6)], atol=3
    )


def test_a_damaged_frame_does_not_end_a_stream(server, picture):
    server.scripts = [[picture(1)] * 3 + [b"\xff\xd8\xff no picture"] + [picture(200)] * 3]
    stream = NetworkStream(server.address, LONG)
    assert frames_of(stream)[-1].mean() > 150


def test_a_stream_that_ends_ends_the_source(server, picture):
    server.scripts = [[picture(), 0.02, picture(), 0.02, picture()]]
    with live(server) as source:
        assert list(source)[-1].stamp.number == 2
    assert server.requests == 1


def test_a_stream_whose_pictures_change_in_size(server, picture):
    server.scripts = [[picture(9)] * 3 + [picture(9, 48, 48)] * 3]
    stream = NetworkStream(server.address, LONG)
    assert [frame.shape for frame in frames_of(stream)] == [(24, 32, 3)] * 6


def test_a_stream_that_stalls(server, picture):
    server.scripts = [[picture()] * 6 + ["stall"]]
    start = time.monotonic()
    silent = pytest.raises(SourceError, match="gave no frame for 1 s")
    with live(server, timeout=SHORT) as source, silent:
        list(source)
    assert time.monotonic() - start < LONG


def test_a_stream_that_stalls_is_opened_again(server, picture):
    server.scripts = [[picture(1)] * 6 + ["stall"], [picture(200), 0.05] * 6]
    told = []
    with live(server, timeout=SHORT, reconnects=2, on_event=told.append) as source:
        for captured in source:
            if captured.picture.mean() > 150:
                break
    assert "gave no frame for 1 s" in told[0]
    assert told[0].endswith("opening it again in 0.01 s (1 of 2)")
    assert server.requests == 2


def test_a_stream_that_breaks_off_for_good(server, picture):
    """It ends without an error, after the attempts to open it again."""
    server.scripts = [[picture()] * 6]
    told = []
    with live(server, reconnects=2, on_event=told.append) as source:
        list(source)
    assert [line.partition(";")[0] for line in told] == [
        "the stream has ended",
        f"{server.address} gives no video that can be read: check its path, user and password",
    ]


def test_closing_a_stalled_stream(server, picture):
    server.scripts = [[picture()] * 6 + ["stall"]]
    source = live(server, timeout=SHORT)
    next(source)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < LONG


def test_a_stream_that_never_answers(server):
    server.scripts = [["mute"]]
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"did not answer in 0.2 s: check the address"):
        NetworkStream(server.address, 0.2)
    assert time.monotonic() - start < LONG


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_nobody_listens(scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}://user:secret@127.0.0.1:{taken.getsockname()[1]}/live"
        with pytest.raises(SourceError, match="could not be reached") as caught:
            NetworkStream(address, LONG)
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_that_can_be_none():
    with pytest.raises(SourceError, match=r"10\.0\.\.7/live could not be reached \(.+\): check"):
        NetworkStream("rtsp://user:secret@10.0..7/live", LONG)


def test_what_is_served_is_no_video(server):
    with pytest.raises(SourceError, match="gives no video that can be read: check its path"):
        NetworkStream(server.address, LONG)


@pytest.fixture
def film_server(tmp_path, monkeypatch):
    """Serves a film of 40 frames whole at /film.avi, and breaks off midway at /half/film.avi."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for level in range(40):
        writer.write(np.full((24, 32, 3), 4 * level, np.uint8))
    writer.release()
    data = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # FFmpeg leaves to look at the end, and comes back.
                self.wfile.write(data[: len(data) // 2] if "half" in self.path else data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


def test_a_film_on_a_server_has_a_length_and_an_end(film_server):
    told = []
    with Source.open(f"{film_server}/film.avi", on_event=told.append) as source:
        assert (source.rate, source.length) == (10, 40)
        given = list(source)
    assert given[-1].stamp.number == 39
    assert given[-1].picture.mean() == pytest.approx(156, abs=4)
    assert len(given) + source.dropped == 40
    assert told == []


def test_a_film_on_a_server_that_breaks_off(film_server):
    told = []
    with Source.open(f"{film_server}/half/film.avi", on_event=told.append) as source:
        last = list(source)[-1].stamp.number
    assert 5 < last < 30
    (line,) = told
    assert line.endswith(
        f"ended after {last + 1} of about 40 frames: the connection may have broken off"
    )
