"""The recipes of docs/live.md are run as they stand there, from a camera that is synthetic."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from dtir_export.cli import main as export
from dtir_sdk import Recognizer, Source, SourceError
from dtir_sdk.cli import main
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

PAGE = (Path(__file__).parents[1] / "docs/live.md").read_text()
RECIPES = dict(re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.search(r"<!-- commands -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
FRAMES = 12


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(read_picture(SAMPLE_PORTRAIT)[::2, ::2])


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch, frame: np.ndarray) -> SimpleNamespace:
    """Camera 0, which ends when it `has_done` what a test wants of it, after FRAMES if nothing."""
    made = SimpleNamespace(has_done=lambda number: number == FRAMES)
    real = Source.open.__func__

    def frames() -> Iterator[np.ndarray]:
        for number in range(30 * 30):
            if made.has_done(number):
                return
            sleep(1 / 30)
            yield frame

    def opened(cls: type[Source], uri: object, **options: Any) -> Source:
        if uri in (0, "0"):
            return real(cls, frames(), live=True)
        return real(cls, uri, **options)

    monkeypatch.setattr(Source, "open", classmethod(opened))
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: np.ndarray) -> Path:
    """A working folder with film.mp4."""
    monkeypatch.chdir(tmp_path)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter("film.mp4", code, 25, (frame.shape[1], frame.shape[0]))
    for _ in range(FRAMES):
        writer.write(frame)
    writer.release()
    return tmp_path


@pytest.fixture
def virtual_camera(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What was sent to a virtual camera, which is pyvirtualcam's in name only."""
    pyvirtualcam = pytest.importorskip("pyvirtualcam")
    sent: list[np.ndarray] = []
    made = SimpleNamespace(device="/dev/video9", send=sent.append, close=lambda: None)
    monkeypatch.setattr(pyvirtualcam, "Camera", lambda *_, **__: made)
    return sent


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dtir-")]


def run(name: str, **names: object) -> dict[str, Any]:
    scope: dict[str, Any] = dict(names)
    exec(compile(RECIPES[name], f"docs/live.md, {name}", "exec"), scope)
    return scope


def covered(picture: np.ndarray, frame: np.ndarray) -> bool:
    """Whether the middle of the picture, where the face is, is not the frame's."""
    height, width = frame.shape[:2]
    middle = (slice(height // 4, height // 2), slice(2 * width // 5, 3 * width // 5))
    return picture.shape == frame.shape and not np.array_equal(picture[middle], frame[middle])


def test_every_recipe_is_run() -> None:
    names = {"opencv", "qt", "browser", "ros", "save", "labels", "cloud", "call", "shutter"}
    assert set(RECIPES) == names
    assert PAGE.count("```python") == len(names)


def test_opencv(
    camera: SimpleNamespace, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[np.ndarray] = []
    camera.has_done = lambda _: False  # The key ends it.
    # The headless build has them, but they only raise.
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture), raising=False)
    monkeypatch.setattr(
        cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1, raising=False
    )
    run("opencv")
    assert len(shown) == 3
    assert all(covered(picture, frame) for picture in shown)


def test_qt(camera: SimpleNamespace, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    widgets = pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    core = pytest.importorskip("PySide6.QtCore")

    class Application(widgets.QApplication):
        def exec(self) -> int:
            # Whoever looks on closes the window when a picture was there.
            timer = core.QTimer()
            timer.timeout.connect(lambda: preview().pixmap().isNull() or self.quit())
            timer.start(50)
            return int(super().exec())

    def preview() -> Any:
        (label,) = [one for one in Application.topLevelWidgets() if isinstance(one, widgets.QLabel)]
        return label

    camera.has_done = lambda _: False
    monkeypatch.setattr(widgets, "QApplication", Application)
    scope = run("qt")
    pixmap = scope["preview"].pixmap()
    assert (pixmap.height(), pixmap.width()) == frame.shape[:2]
    image = pixmap.toImage().convertToFormat(scope["QImage"].Format.Format_BGR888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), -1)
    assert covered(rows[:, : 3 * image.width()].reshape(frame.shape), frame)
    scope["application"].shutdown()


def test_qt_tells_of_a_camera_that_was_unplugged(
    camera: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    widgets = pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    core = pytest.importorskip("PySide6.QtCore")
    told: list[str] = []

    class Application(widgets.QApplication):
        def exec(self) -> int:
            timer = core.QTimer()
            timer.timeout.connect(lambda: told or self.look())
            timer.start(50)
            return int(super().exec())

        def look(self) -> None:
            (label,) = [one for one in self.topLevelWidgets() if isinstance(one, widgets.QLabel)]
            if "unplugged" in label.text():
                told.append(label.text())
                self.quit()

    def unplug(number: int) -> bool:
        if number == 3:
            raise SourceError("camera 0 was unplugged")
        return False

    camera.has_done = unplug
    monkeypatch.setattr(widgets, "QApplication", Application)
    with pytest.raises(SourceError, match="unplugged"):
        run("qt")
    assert told == ["camera 0 was unplugged"]
    widgets.QApplication.instance().shutdown()


def test_browser(camera: SimpleNamespace, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[bytes] = []

    def look(_: int) -> bool:
        # The camera runs before the server does.
        with suppress(URLError), urlopen(f"http://127.0.0.1:{port}/stream", timeout=60) as stream:
            pages.append(stream.read(5000))
        return bool(pages)

    camera.has_done = look
    monkeypatch.setitem(RECIPES, "browser", RECIPES["browser"].replace("8080", str(port)))
    run("browser")
    assert b"\xff\xd8" in pages[0]


def test_ros(frame: np.ndarray) -> None:
    published: list[np.ndarray] = []
    subscribed: list[Callable[[object], None]] = []
    scope = run(
        "ros",
        Image=object,
        bridge=SimpleNamespace(
            imgmsg_to_cv2=lambda message, kind: {"bgr8": message.picture}[kind],
            cv2_to_imgmsg=lambda picture, kind: {"bgr8": picture}[kind],
        ),
        publisher=SimpleNamespace(publish=published.append),
        node=SimpleNamespace(create_subscription=lambda *values: subscribed.append(values[2])),
    )
    with scope["pipeline"]:
        for nanosec in (0, 40_000_000):
            stamp = SimpleNamespace(sec=1_700_000_000, nanosec=nanosec)
            header = SimpleNamespace(stamp=stamp)
            subscribed[0](SimpleNamespace(header=header, picture=frame))
    assert len(published) == 2
    assert all(covered(picture, frame) for picture in published)


def test_save(place: Path, frame: np.ndarray) -> None:
    run("save")
    with Source.open(place / "private.mp4") as film:
        pictures = [captured.picture for captured in film]
    assert len(pictures) == FRAMES
    face, there = (slice(60, 140), slice(100, 150)), frame[60:140, 100:150].astype(int)
    assert all(np.abs(picture[face] - there).mean() > 10 for picture in pictures)


@pytest.mark.usefixtures("camera", "place")
def test_cloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert export(["--role", "edge", "--output", "bundle-edge"]) == 0
    capsys.readouterr()
    with Recognizer() as recognizer:
        run("cloud", ask=recognizer)
    assert "[(1, 'male')]" in capsys.readouterr().out


@pytest.mark.usefixtures("camera")
def test_labels(capsys: pytest.CaptureFixture[str]) -> None:
    run("labels")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"1 (fe)?male \d+%", line) for line in lines)


@pytest.mark.usefixtures("camera")
def test_call(frame: np.ndarray, virtual_camera: list[np.ndarray]) -> None:
    run("call")
    assert virtual_camera
    assert all(covered(picture[..., ::-1], frame) for picture in virtual_camera)


def test_shutter(camera: SimpleNamespace, frame: np.ndarray) -> None:
    results: list[Any] = []
    shut: list[int] = []

    def ask(_: str) -> None:
        # One from before may be under way to `show` when the shutter shuts.
        first = len(results) + 1
        while len(results) < first + 3:
            sleep(0.01)
        shut.extend(range(first, len(results)))

    camera.has_done = lambda _: bool(shut) and len(results) > shut[-1] + 20
    run("shutter", show=results.append, ask=ask)
    assert not any(results[number].faces for number in shut)
    assert results[-1].faces
    assert covered(results[-1].image, frame)


@pytest.mark.usefixtures("camera")
def test_the_commands(
    place: Path,
    port: int,
    virtual_camera: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pygame")
    pytest.importorskip("av")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    # A window needs a display, which the dummy driver has no need of.
    monkeypatch.setenv("DISPLAY", ":0")
    assert COMMANDS is not None
    lines = COMMANDS.group(1).replace("8080", str(port)).splitlines()
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words.pop(0) == "dtir"
        assert main(words) == 0, capsys.readouterr().err
    for written in ("labels.jsonl", "private.mp4", "private.mkv"):
        assert (place / written).stat().st_size > 0
    assert virtual_camera
