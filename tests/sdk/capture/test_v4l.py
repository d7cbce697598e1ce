from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from dtir_sdk.capture import v4l

fcntl = pytest.importorskip("fcntl", reason="Video4Linux is Linux's")


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """A device that answers Video4Linux's questions; gives a function that says how."""
    node = tmp_path / "video0"
    node.touch()
    before = set(map(str, Path("/proc/self/fd").iterdir()))

    def answers(device=0x1, own=0x1, buffers=None):
        asked = []

        def ioctl(_, request, argument):
            if request == v4l._QUERY_CAPABILITIES:
                struct.pack_into("=II", argument, 84, device, own)
            elif buffers is not None:
                raise OSError(buffers, os.strerror(buffers))
            else:
                asked.append(struct.unpack_from("=I", argument)[0])

        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        return node, asked

    yield answers
    assert set(map(str, Path("/proc/self/fd").iterdir())) == before


def test_missing(tmp_path):
    assert "is not there: plug it in, or name one of these: none was found" in str(
        v4l.obstacle(tmp_path / "video0")
    )
    (tmp_path / "video2").touch()
    assert str(v4l.obstacle(tmp_path / "video0")).endswith(f": {tmp_path / 'video2'}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "usermod -aG video"),
        (errno.EBUSY, "in use by another program"),
        (errno.ENODEV, "could not be opened: no such device"),
    ],
)
def test_refused(monkeypatch, code, words):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(v4l.os, "open", refuse)
    assert words in str(v4l.obstacle(Path("/dev/video0")))


def test_no_camera():
    assert v4l.obstacle(Path(os.devnull)) == "is no camera"


def test_a_node_for_something_else(camera):
    node, _ = camera(device=0x80000001, own=0x00800000)
    assert "gives no pictures" in str(v4l.obstacle(node))


def test_busy(camera):
    node, _ = camera(buffers=errno.EBUSY)
    assert "is in use by another program" in str(v4l.obstacle(node))


def test_nothing_in_the_way(camera):
    node, asked = camera()
    assert v4l.obstacle(node) is None
    # The buffer that was asked for is given back.
    assert asked == [1, 0]


def test_buffers_of_another_kind_are_no_obstacle(camera):
    node, _ = camera(buffers=errno.EINVAL)
    assert v4l.obstacle(node) is None
