from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks import Origin, open_sink


class FakeCamera:
    """pyvirtualcam.Camera, as far as it is used, with the device it would write to in memory."""

    def __init__(self, width, height, fps, *, fmt, device=None):
        assert fmt == "rgb"
        self.shape, self.fps, self.device = (height, width, 3), fps, device or "/dev/video4"
        self.sent, self.closed, self.unplugged = [], 0, False
        FakeCamera.last = self

    def send(self, frame):
        if self.unplugged:
            raise OSError(19, "No such device")
        assert frame.shape == self.shape
        assert frame.dtype == np.uint8
        self.sent.append(frame)

    def close(self):
        self.closed += 1


@pytest.fixture
def fake(monkeypatch):
    module = SimpleNamespace(Camera=FakeCamera, PixelFormat=SimpleNamespace(RGB="rgb"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    return module


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_sends_what_is_safe(result, color):
    with open_sink("camera:/dev/video9", Origin(rate=25)) as sink:
        sink.write(result(0, color=color, size=(95, 63)))
        sink.write(result(1, color=color, size=(190, 126)))
    camera = FakeCamera.last
    assert (camera.shape, camera.fps, camera.device) == ((64, 96, 3), 25, "/dev/video9")
    assert (camera.sent[0] == (20, 60, 200)).all()
    assert (camera.sent[1][20:40, 20:40] == (20, 60, 200)).all()
    assert camera.closed == 1
    assert sink.notes == ("the virtual camera is /dev/video9",)
    sink.close()
    assert camera.closed == 1
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result(2))


@pytest.mark.usefixtures("fake")
def test_first_camera_there_is(result):
    with open_sink("camera") as sink:
        sink.write(result(0))
        assert sink.device == "/dev/video4"
    assert FakeCamera.last.fps == 30


@pytest.mark.parametrize(
    ("platform", "words"),
    [("linux", "sudo modprobe v4l2loopback devices=1"), ("darwin", "OBS"), ("win32", "OBS")],
)
def test_no_device(monkeypatch, fake, result, platform, words):
    def refuse(*_, **__):
        raise RuntimeError("'v4l2loopback' backend: No device found\nsecond line")

    monkeypatch.setattr(fake, "Camera", refuse)
    monkeypatch.setattr(sys, "platform", platform)
    with open_sink("camera") as sink, pytest.raises(OutputError, match=words) as caught:
        sink.write(result(0))
    assert "\n" not in str(caught.value)
    assert "No device found" in str(caught.value)


@pytest.mark.usefixtures("fake")
def test_device_that_is_pulled_out(result):
    with open_sink("camera") as sink:
        sink.write(result(0))
        FakeCamera.last.unplugged = True
        with pytest.raises(OutputError, match="the virtual camera failed: no such device"):
            sink.write(result(1))
    assert FakeCamera.last.closed == 1
