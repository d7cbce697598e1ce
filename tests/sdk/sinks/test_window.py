from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import textwrap
from time import perf_counter, sleep

import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks import open_sink

pygame = pytest.importorskip("pygame", reason="needs pygame-ce")


XVFB = shutil.which("Xvfb")


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
        # All of it within the black box.
        assert not (shown()[:30] == 255).all(2)[:, 100:].any()


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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_no_display():
    """One line, and none of SDL's, Wayland's or X's own beside it."""
    code = """
        import sys
        from dtir_sdk.errors import OutputError
        from dtir_sdk.sinks import open_sink

        try:
            open_sink("window")
        except OutputError as error:
            sys.exit(str(error))
    """
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == (
        "no window can be shown here (no screen was found): use --to http://127.0.0.1:8080 to "
        "watch in a browser\n"
    )


@pytest.mark.parametrize("driver", ["", "x11"])
def test_a_display_that_shows_nothing(monkeypatch, driver):
    """SDL takes a driver of that kind where it is not told any; that is no window."""
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    if not driver:
        monkeypatch.delenv("SDL_VIDEODRIVER")
        monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
        monkeypatch.setattr(pygame.display, "init", lambda: None)
    with pytest.raises(OutputError, match=r"no window can be shown here \(.+\): use --to http"):
        open_sink("window")
    monkeypatch.undo()
    assert not pygame.display.get_init()


@pytest.fixture
def screen(tmp_path, monkeypatch):
    """An X server without a monitor; gives a function that looks at its screen, [H, W, 3] RGB."""
    reading, writing = os.pipe()
    size = ("-screen", "0", "800x600x24", "-fbdir", tmp_path)
    words = (XVFB, "-displayfd", str(writing), *size, "-nolisten", "tcp")
    with subprocess.Popen(words, pass_fds=(writing,), stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        with os.fdopen(reading) as told:
            monkeypatch.setenv("DISPLAY", f":{told.readline().strip()}")
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")

        def look() -> np.ndarray:
            # As xwd writes it: the header's size, then among others what is used here.
            data = (tmp_path / "Xvfb_screen0").read_bytes()
            fields = struct.unpack_from(">25I", data)
            start, width, height, row = fields[0] + 12 * fields[19], *fields[4:6], fields[12]
            rows = np.frombuffer(data, np.uint8, row * height, start).reshape(height, row)
            return rows[:, : 4 * width].reshape(height, width, 4)[..., 2::-1]

        yield look
        server.terminate()


@pytest.mark.skipif(XVFB is None, reason="Xvfb is not installed")
def test_on_a_screen(result, screen):
    """The picture as it is, and the box around the face, on a real screen."""
    with open_sink("window") as sink:
        assert pygame.display.get_driver() == "x11"
        for number in range(300):
            sink.write(result(number, size=(320, 240), captured=perf_counter()))
            sleep(0.02)
            seen = screen()
            close = np.abs(seen.astype(int) - (20, 60, 200)).max(2) < 3
            if close.sum() > 0.8 * 320 * 240:
                break
        rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
        assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (239, 319)
        box = seen[rows[0] + 53, columns[0] + 4 : columns[0] + 24]
        assert (box == 255).all()
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
