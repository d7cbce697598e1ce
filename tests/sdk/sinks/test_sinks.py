from __future__ import annotations

import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError, DtirError, OutputError
from dtir_sdk.sinks import CallbackSink, Origin, open_sink


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("film.mp4", "Film"),
        ("film.WEBM", "Film"),
        ("labels.jsonl", "LinesFile"),
        ("frames/", "PictureFolder"),
        ("frames-%d.jpg", "PictureFolder"),
        ("http://127.0.0.1:0", "WebPreview"),
        ("camera", "VirtualCamera"),
        ("camera:/dev/video9", "VirtualCamera"),
    ],
)
def test_what_a_target_names(tmp_path, monkeypatch, target, kind):
    monkeypatch.chdir(tmp_path)
    with open_sink(target) as sink:
        assert type(sink).__name__ == kind
        assert not sink.finished()


def test_a_folder_that_is_there_needs_no_slash(tmp_path):
    assert type(open_sink(str(tmp_path))).__name__ == "PictureFolder"


def test_a_pyav_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("av", "dtir_sdk.sinks.film", "dtir_sdk.sinks.sound"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(OutputError, match=r"PyAV .* cannot be loaded \(libavcodec: no such file"):
        open_sink(str(tmp_path / "film.mp4"))


@pytest.mark.parametrize(
    "target", ["", "film", "film.avi", "camera:", "Window", "rtsp://host/film", "a.png", "a\0"]
)
def test_names_no_sink(target):
    with pytest.raises(ConfigurationError, match=r"names no sink: there are window, camera,"):
        open_sink(target)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("target", ["a\0b.mp4", "a\0b.jsonl", "a\0b/", "a\0b/frame-%d.png"])
def test_a_name_that_no_file_can_have(tmp_path, monkeypatch, target, live):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="null"):
        open_sink(target, Origin(live=live))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [math.nan, math.inf, -25.0, 0, "25"])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ConfigurationError, match=r"rate must be more than 0, or None .*, not "):
        Origin(rate=rate)


@pytest.mark.parametrize(
    "target",
    [
        "http://",
        "https://127.0.0.1:8080",
        "http://127.0.0.1",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://:8080",
        "http://a@127.0.0.1:8080",
        "http://127.0.0.1:8080/preview",
        "http://[::1",
    ],
)
def test_no_web_address(target):
    with pytest.raises(ConfigurationError, match=r"must be of the form http://127\.0\.0\.1:8080"):
        open_sink(target)


@given(st.text(alphabet=st.characters(exclude_characters="/\\"), max_size=12))
@example("%\n")
def test_any_other_text_is_told_in_one_line(text):
    """Nothing is opened or made by a name without a suffix that says what it is."""
    target = f"nothing/{text}.xyz"
    with pytest.raises(DtirError) as caught:
        open_sink(target)
    assert isinstance(caught.value, ConfigurationError)
    assert "\n" not in str(caught.value)


def test_callback(result):
    taken = []
    with CallbackSink(taken.append) as sink:
        sent = result(3)
        sink.write(sent)
    assert taken == [sent]


def test_callback_that_raises(result):
    def refuse(_):
        raise ZeroDivisionError("mine")

    with CallbackSink(refuse) as sink, pytest.raises(ZeroDivisionError, match="mine"):
        sink.write(result())


@pytest.mark.parametrize(
    ("module", "target", "extra", "origin"),
    [
        ("pygame", "window", "window", Origin()),
        ("pyvirtualcam", "camera", "virtualcam", Origin()),
        ("av", "film.mkv", "video", Origin()),
        ("av", "film.mp4", "video", Origin(live=True)),
    ],
)
def test_missing_extra(tmp_path, monkeypatch, module, target, extra, origin):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OutputError, match=rf'pip install "dtir\[{extra}\]"$'):
        open_sink(target, origin)
    assert list(tmp_path.iterdir()) == []


def test_a_target_may_be_a_path(tmp_path):
    with open_sink(tmp_path) as folder, open_sink(tmp_path / "labels.jsonl") as lines:
        assert [type(sink).__name__ for sink in (folder, lines)] == ["PictureFolder", "LinesFile"]


@pytest.mark.parametrize("name", ["\u5199" * 82 + ".mp4", "a" * 300 + ".mp4"])
def test_a_long_name(tmp_path, name, capfd):
    """Of at most 255 bytes on most disks, which may be fewer than 100 characters."""
    try:
        with open_sink(str(tmp_path / name)):
            pass
    except OutputError as error:
        assert "file name too long" in str(error)
        assert len(name) > 255
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
