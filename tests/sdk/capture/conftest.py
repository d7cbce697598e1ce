"""Scripted devices and MJPEG servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest


def picture(level: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


class ScriptedDevice:
    """Gives the pictures of a script, sleeps its numbers, raises its errors, waits for its events;
    None, or the script's end, is the device's end."""

    rate = 30.0

    def __init__(self, script, length=None):
        self.length = length
        self.closed = False
        self.given = 0
        self._script = iter(script)

    def read(self):
        assert not self.closed
        for step in self._script:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, threading.Event):
                step.wait(60)
            elif isinstance(step, float):
                time.sleep(step)
            else:
                self.given += step is not None
                return step
        return None

    def close(self):
        self.closed = True


class Server:
    """Serves one script a connection, then nothing: pictures are sent as MJPEG, bytes in the place
    of a picture's, numbers slept;
    "stall" keeps the connection open in silence, "mute" does so before it has answered."""

    def __init__(self) -> None:
        self.scripts: list[list] = []
        self.requests = 0
        self.over = threading.Event()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                served.serve(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/camera"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        script = self.scripts.pop(0) if self.scripts else None
        if script is None:
            handler.send_error(404)
            return
        if script == ["mute"]:
            self.over.wait(60)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        try:
            for step in script:
                if isinstance(step, float):
                    time.sleep(step)
                elif isinstance(step, str):
                    self.over.wait(60)
                else:
                    data = step
                    if not isinstance(data, bytes):
                        data = cv2.imencode(".jpg", step)[1].tobytes()
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                    handler.wfile.write(head % len(data) + data + b"\r\n")
                    handler.wfile.flush()
        except OSError:
            pass  # The client has gone.

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedDevice]:
    return ScriptedDevice


@pytest.fixture(scope="session", name="picture")
def picture_maker() -> Callable[..., np.ndarray]:
    """Makes a plain picture: level, height, width."""
    return picture


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if "dtir-capture" in thread.name]
    assert left == []
