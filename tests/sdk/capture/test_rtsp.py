"""Streams from servers that are programs of their own, so that they can be killed and held."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dtir_sdk import Source
from dtir_sdk.errors import SourceError

av = pytest.importorskip("av", reason="PyAV, of the extra `video`, encodes what is streamed")

SERVER = Path(__file__).with_name("rtsp_server.py")
# Levels of the frames, by their number.
DARKEST, STEP, LEVELS = 20, 8, 24
# GStreamer's bindings belong to the system's Python.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
GSTREAMER = textwrap.dedent(
    """
    import sys
    import gi
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
    film = GstRtspServer.RTSPMediaFactory()
    film.set_launch(f"filesrc location={sys.argv[2]} ! qtdemux ! h264parse ! rtph264pay name=pay0")
    server.get_mount_points().add_factory("/live", film)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()
    """
)


@pytest.fixture
def programs():
    """Starts programs that say when they are ready; none is left."""
    started = []

    def start(*words: object) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        if started[-1].stdout.readline() != "ready\n":
            pytest.skip(f"the server does not start: {started[-1].stderr.read()[-300:]}")
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.communicate()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_camera(programs, port):
    return lambda: programs(sys.executable, SERVER, port)


def number_of(captured) -> int:
    """What its picture says, of which there are LEVELS only."""
    return round((captured.picture.mean() - DARKEST) / STEP)


def test_the_newest_frames_of_a_camera(start_camera, port):
    """Each frame is the one that its number says, those that were dropped counted too."""
    start_camera()
    with Source.open(f"rtsp://127.0.0.1:{port}/live", timeout=30) as source:
        assert (source.live, source.rate, source.length) == (True, 30, None)
        given = []
        for captured in source:
            given.append(captured)
            if len(given) == 8:
                break
            time.sleep(0.15)
        assert source.dropped >= 7
        numbers = [captured.stamp.number for captured in given]
        assert [number % LEVELS for number in numbers] == [number_of(one) for one in given]
        assert sum(np.diff(numbers) - 1) <= source.dropped
        assert np.all(np.diff([captured.stamp.seconds for captured in given]) > 0)


def test_a_camera_that_is_switched_off_and_on(start_camera, port):
    camera = start_camera()
    told = []

    def tell(line):
        told.append(line)
        if "could not be reached" in line and len(told) == 2:
            start_camera()

    with Source.open(f"rtsp://127.0.0.1:{port}/live", timeout=30, on_event=tell) as source:
        last = next(source).stamp
        camera.kill()
        camera.wait()
        for captured in source:
            assert captured.stamp.number > last.number
            assert captured.stamp.seconds > last.seconds
            last = captured.stamp
            if len(told) == 2 and number_of(captured) == 5:
                break
    shown = f"rtsp://127.0.0.1:{port}/live"
    assert told[0] == f"{shown} has ended; opening it again in 0.5 s (1 of 5)"
    assert told[1].startswith(f"{shown} could not be reached (connection refused)")
    assert told[1].endswith("; opening it again in 1 s (2 of 5)")


def test_a_camera_that_falls_silent(start_camera, port):
    camera = start_camera()
    with Source.open(f"rtsp://127.0.0.1:{port}/live", timeout=5, reconnects=0) as source:
        next(source)
        camera.send_signal(signal.SIGSTOP)
        with pytest.raises(SourceError, match="gave no frame for 5 s: check the camera"):
            list(source)


def test_a_camera_that_never_answers(start_camera, port):
    start_camera().send_signal(signal.SIGSTOP)
    with pytest.raises(SourceError, match=r"did not answer in 0\.3 s: check the address"):
        Source.open(f"rtsp://127.0.0.1:{port}/live", timeout=0.3)


def test_a_path_that_the_camera_does_not_know(start_camera, port):
    start_camera()
    with pytest.raises(SourceError, match="gives no video that can be read: check its path"):
        Source.open(f"rtsp://user:secret@127.0.0.1:{port}/wrong", timeout=30)


def test_a_film_from_gstreamers_server(programs, port, tmp_path):
    """A server that others wrote; a film has a length, and an end."""
    if SYSTEM_PYTHON is None:
        pytest.skip("the system has no Python for GStreamer's bindings")
    film = tmp_path / "film.mp4"
    with av.open(film, "w") as container:
        stream = container.add_stream("libx264", 30, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(90):
            picture = np.full((64, 96, 3), DARKEST + STEP * (number % LEVELS), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    programs(SYSTEM_PYTHON, "-c", GSTREAMER, port, film)
    with Source.open(f"rtsp://127.0.0.1:{port}/live", timeout=30) as source:
        assert source.length == 90
        given = [(captured.stamp.number, number_of(captured)) for captured in source]
    assert given[-1] == (89, 89 % LEVELS)
    assert all(number % LEVELS == level for number, level in given)
    assert len(given) + source.dropped == 90
