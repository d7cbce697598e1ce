from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks import open_sink

pygame = pytest.importorskip("pygame", reason="needs pygame-ce")


@pytest.fixture
def display(monkeypatch):
    """SDL's display that shows nothing, asked for by name."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def shown() -> np.ndarray:
    """What the window holds, uint8 [H, W, 3] RGB."""
    return pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_shows_the_picture(result, color):
    with open_sink("window") as sink:
        sink.write(result(color=color, size=(320, 240)))
        assert shown().shape == (240, 320, 3)
        assert (shown()[200, 200:] == (20, 60, 200)).all()
        # The box around the face, white.
        assert (shown()[53, 4:24] == 255).all()
        assert not sink.finished()
    assert not pygame.display.get_init()


@pytest.mark.usefixtures("display")
def test_writes_rate_and_latency_above(result, monkeypatch):
    texts = []
    monkeypatch.setattr("dtir_sdk.sinks.window._caption", lambda _, text: texts.append(text))
    clock = iter([10.0, 10.02, 10.04])
    monkeypatch.setattr("dtir_sdk.sinks.window.perf_counter", lambda: next(clock))
    with open_sink("window") as sink:
        sink.write(result(0, captured=9.988))
        sink.write(result(1, captured=10.0))
        sink.write(result())
    assert texts == ["12 ms", "50 frames/s, 20 ms", "50 frames/s"]


@pytest.mark.usefixtures("display")
def test_caption_is_drawn(result):
    with open_sink("window") as sink:
        sink.write(result(0, size=(320, 240), captured=perf_counter()))
        corner = shown()[5:25, 5:80]
        assert (corner == 255).all(2).any()
        assert (corner == 0).all(2).any()


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize(
    "event",
    [
        {"type": pygame.KEYDOWN, "key": pygame.K_q},
        {"type": pygame.KEYDOWN, "key": pygame.K_ESCAPE},
        {"type": pygame.QUIT},
    ],
)
def test_ends_the_run(result, event):
    with open_sink("window") as sink:
        sink.write(result(0))
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
        assert not sink.finished()
        pygame.event.post(pygame.event.Event(event.pop("type"), **event))
        assert sink.finished()
        sink.write(result(1))
    assert sink.finished()
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result(2))


@pytest.mark.usefixtures("display")
def test_another_size_is_fitted(result):
    with open_sink("window") as sink:
        sink.write(result(0, size=(320, 240)))
        sink.write(result(1, size=(640, 240)))
        assert shown().shape == (240, 320, 3)
        assert (shown()[0, 160:] == 0).all()
        assert (shown()[150, 160:] == (20, 60, 200)).all()


@pytest.mark.usefixtures("display")
def test_one_window_only():
    with open_sink("window"), pytest.raises(OutputError, match="shows a window already"):
        open_sink("window")
    with open_sink("window"):
        pass


@pytest.mark.parametrize("driver", ["", "x11"])
def test_no_display(monkeypatch, driver):
    """SDL takes a driver that shows nothing, where it is not told any; that is no window."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    if not driver:
        monkeypatch.delenv("SDL_VIDEODRIVER")
        monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
        monkeypatch.setattr(pygame.display, "init", lambda: None)
    with pytest.raises(OutputError, match=r"no window can be shown here \(.+\): use --to http"):
        open_sink("window")
    monkeypatch.undo()
    assert not pygame.display.get_init()


def test_says_nothing_on_stdout():
    """Else it would stand among the lines of `--to -`."""
    code = "from dtir_sdk.sinks import open_sink; open_sink('window').close()"
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy"}
    environment.pop("PYGAME_HIDE_SUPPORT_PROMPT", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert done.stdout == b""
