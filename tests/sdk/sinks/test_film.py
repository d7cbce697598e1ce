from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import av
import cv2
import numpy as np
import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.quiet import quiet_opencv
from dtir_sdk.sinks import Origin, open_sink

LIVE = Origin(rate=30, live=True)


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def fill(sink, result, count=30, **changes):
    for number in range(count):
        sink.write(result(number, **changes))


def playable(path) -> int:
    """How many frames a forgiving reader finds in a file that is cut off."""
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
        count = 0
        while capture.read()[0]:
            count += 1
    return count


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "MP4"])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_every_format(tmp_path, result, read, suffix, color):
    path = tmp_path / f"film.{suffix}"
    with open_sink(str(path), Origin(rate=30)) as sink:
        fill(sink, result, color=color)
    film = read(path)
    assert np.allclose(film.times, np.arange(30) / 30, atol=1e-3)
    assert np.abs(film.pictures[-1].mean((0, 1)) - (200, 60, 20)).max() < 4
    assert film.codec is None
    assert sink.notes == ()
    assert list(tmp_path.iterdir()) == [path]


def test_opencv_reads_it(tmp_path, result):
    """MP4 ends as an ordinary file, of which any reader learns the length and the rate."""
    path = tmp_path / "film.mp4"
    with open_sink(str(path), Origin(rate=30)) as sink:
        fill(sink, result)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30)


def test_variable_frame_rate(tmp_path, result, read):
    times = [5.0, 5.04, 5.05, 5.5, 5.5, 7.25]
    with open_sink(str(tmp_path / "film.mp4"), Origin(rate=30)) as sink:
        for number, seconds in enumerate(times):
            sink.write(result(number, seconds=seconds))
    expected = np.array(times) - times[0]
    assert np.allclose(read(tmp_path / "film.mp4").times, expected, atol=1e-4)


@pytest.mark.parametrize(("rate", "step"), [(10.0, 0.1), (None, 0.04)])
def test_without_stamps(tmp_path, result, read, rate, step):
    with open_sink(str(tmp_path / "film.mkv"), Origin(rate=rate)) as sink:
        for _ in range(5):
            sink.write(result())
    assert np.allclose(read(tmp_path / "film.mkv").times, np.arange(5) * step, atol=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
@pytest.mark.parametrize("size", [(95, 63), (1, 1), (97, 64)])
def test_odd_sides(tmp_path, result, read, size, suffix):
    path = tmp_path / f"film.{suffix}"
    with open_sink(str(path)) as sink:
        fill(sink, result, 3, size=size)
    picture = read(path).pictures[-1]
    assert picture.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert np.abs(picture.astype(int) - (200, 60, 20)).max() < 12


def test_changing_size(tmp_path, result, read):
    with open_sink(str(tmp_path / "film.mp4")) as sink:
        fill(sink, result, 2)
        sink.write(result(2, size=(50, 200)))
    last = read(tmp_path / "film.mp4").pictures[-1]
    assert last.shape == (64, 96, 3)
    assert np.abs(last[32, 48].astype(int) - (200, 60, 20)).max() < 12
    assert last[:, :30].mean() < 8


@pytest.mark.parametrize(
    ("codec", "source", "target", "copied"),
    [
        ("aac", "talkie.mp4", "mp4", True),
        ("aac", "talkie.mp4", "mkv", True),
        ("libmp3lame", "talkie.mkv", "mp4", True),
        ("pcm_mulaw", "talkie.avi", "mp4", False),
        ("aac", "talkie.mp4", "webm", False),
        ("libopus", "talkie.mkv", "webm", True),
        ("pcm_s16le", "talkie.avi", "mp4", False),
        ("pcm_s16le", "talkie.avi", "mkv", True),
        ("libopus", "talkie.mkv", "mov", False),
        ("flac", "talkie.mkv", "mov", False),
    ],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_sound_is_kept_in_sync(
    tmp_path, result, read, talkie, codec, source, target, copied, layout
):
    file = talkie(source, codec, layout=layout)
    path = tmp_path / f"film.{target}"
    with open_sink(str(path), Origin(rate=30, file=file)) as sink:
        fill(sink, result, 60)
    film, before = read(path), read(file)
    assert len(film.pictures) == 60
    loud = np.flatnonzero(np.abs(film.sound) > 0.2) / film.rate + film.start
    assert loud[0] == pytest.approx(1.0, abs=0.03)
    assert loud[-1] == pytest.approx(1.2, abs=0.03)
    # A copied film may begin with another packet, but has none of its own.
    assert (set(film.packets[5:60]) <= set(before.packets)) == copied
    assert any("voices can be recognised" in note for note in sink.notes)


@pytest.mark.parametrize("rate", [192_000, 8_000, 5_512])
def test_sound_at_any_rate_is_in_sync(tmp_path, result, read, talkie, rate):
    file = talkie("talkie.avi", "pcm_u8", rate=rate)
    with open_sink(str(tmp_path / "film.mp4"), Origin(rate=30, file=file)) as sink:
        fill(sink, result, 60)
    film = read(tmp_path / "film.mp4")
    loud = np.flatnonzero(np.abs(film.sound) > 0.2) / film.rate + film.start
    assert loud[0] == pytest.approx(1.0, abs=0.03)
    assert loud[-1] == pytest.approx(1.2, abs=0.03)


def test_sound_that_the_format_refuses_is_left_out(tmp_path, result, read, talkie):
    """MP4 knows no MP3 of 8 kHz."""
    path = tmp_path / "film.mp4"
    origin = Origin(rate=30, file=talkie("talkie.avi", "libmp3lame", rate=8_000))
    with open_sink(str(path), origin) as sink:
        fill(sink, result, 60)
    film = read(path)
    assert len(film.pictures) == 60
    assert film.codec is None
    (note,) = sink.notes
    assert "talkie.avi is left out, which FFmpeg does not write into" in note


def test_sound_of_a_film_that_starts_late(tmp_path, result, read, talkie):
    file = talkie("talkie.mkv", start=3.0)
    with open_sink(str(tmp_path / "film.mp4"), Origin(rate=30, file=file)) as sink:
        fill(sink, result, 60)
    film = read(tmp_path / "film.mp4")
    loud = np.flatnonzero(np.abs(film.sound) > 0.2) / film.rate + film.start
    assert loud[0] == pytest.approx(1.0, abs=0.03)


def test_first_frames_left_out(tmp_path, result, read, talkie):
    """Results from the thirtieth frame on: the sound of the first second goes with its frames."""
    with open_sink(str(tmp_path / "film.mp4"), Origin(rate=30, file=talkie())) as sink:
        for number in range(24, 60):
            sink.write(result(number))
    film = read(tmp_path / "film.mp4")
    loud = np.flatnonzero(np.abs(film.sound) > 0.2) / film.rate + film.start
    assert loud[0] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("codec", ["aac", "pcm_mulaw"])
def test_sound_ends_with_the_pictures(tmp_path, result, read, talkie, codec):
    file = talkie("talkie.avi", codec, seconds=5.0)
    with open_sink(str(tmp_path / "film.mp4"), Origin(rate=30, file=file)) as sink:
        fill(sink, result, 30)
    film = read(tmp_path / "film.mp4")
    assert 1.9 < len(film.sound) / film.rate < 2.2


def test_source_without_sound(tmp_path, result, read):
    for name, file in (("silent.mp4", None), ("film.mp4", tmp_path / "silent.mp4")):
        with open_sink(str(tmp_path / name), Origin(rate=30, file=file)) as sink:
            fill(sink, result, 5)
    assert read(tmp_path / "film.mp4").codec is None
    assert sink.notes == ()


def test_sound_that_cannot_be_read(tmp_path, result, read):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with open_sink(str(tmp_path / "film.mp4"), Origin(file=tmp_path / "broken.mp4")) as sink:
        fill(sink, result, 5)
    assert len(read(tmp_path / "film.mp4").pictures) == 5
    assert "could not be read: invalid data" in sink.notes[0].lower()


def test_damaged_sound(tmp_path, result, read, talkie):
    """What cannot be decoded is left out, and the rest stays in step."""
    file = talkie()
    data = bytearray(file.read_bytes())
    with av.open(str(file)) as film:
        for packet in list(film.demux(audio=0))[10:20]:
            data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    file.write_bytes(data)
    with open_sink(str(tmp_path / "film.webm"), Origin(rate=30, file=file)) as sink:
        fill(sink, result, 60)
    film = read(tmp_path / "film.webm")
    loud = np.flatnonzero(np.abs(film.sound) > 0.2) / film.rate + film.start
    assert loud[-1] == pytest.approx(1.2, abs=0.03)
    assert "is damaged: " in sink.notes[-1]


def test_pictures_that_no_encoder_takes(tmp_path, result):
    refused = pytest.raises(OutputError, match=r"film\.mp4 could not be written: ")
    with open_sink(str(tmp_path / "film.mp4")) as sink, refused as caught:
        sink.write(result(0, size=(32_000, 8)))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_interrupted(tmp_path, result, read, talkie):
    """What was written can be played, and what lay there before is still there."""
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")
    sink = open_sink(str(path), Origin(rate=30, file=talkie()))
    with pytest.raises(KeyboardInterrupt), sink:
        fill(sink, result)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    partial = read(tmp_path / "film.partial.mp4")
    assert len(partial.pictures) == 30
    assert len(partial.sound) / partial.rate < 1.1
    assert "film.partial.mp4" in sink.notes[-1]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
def test_live_recording_that_is_killed(tmp_path, read, suffix):
    path = tmp_path / f"film.{suffix}"
    code = """
        import os, signal, sys
        import numpy as np
        from dtir_sdk.results import FrameStamp, Result, Timings
        from dtir_sdk.sinks import Origin, open_sink

        sink = open_sink(sys.argv[1], Origin(rate=30, live=True))
        for number in range(100):
            image = np.full((64, 96, 3), number, np.uint8)
            stamp = FrameStamp(number, number / 30, 0)
            sink.write(Result((), image, Timings(*[0] * 8), stamp=stamp))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), path], check=False)
    assert done.returncode == -signal.SIGKILL
    pictures = read(path).pictures
    assert len(pictures) >= 60
    assert abs(pictures[50].mean() - 50) < 4


def test_live_recording_replaces_none(tmp_path, result, read):
    path = tmp_path / "film.mp4"
    with open_sink(str(path), LIVE) as sink:
        fill(sink, result)
    with pytest.raises(OutputError, match=r"film\.mp4 is there already: name another file"):
        open_sink(str(path), LIVE)
    assert len(read(path).pictures) == 30


def test_no_frame(tmp_path):
    for origin in (Origin(), LIVE):
        with open_sink(str(tmp_path / "film.mp4"), origin) as sink:
            pass
        assert "no frame was written" in sink.notes[0]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("origin", [Origin(rate=30), LIVE], ids=["file", "live"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_full_disk(tmp_path, result, small_disk, suffix, origin):
    sink = open_sink(str(tmp_path / f"film.{suffix}"), origin)

    def record():
        with sink:
            for number in range(300):
                written = result(number)
                written.image[:] = noise(number)
                sink.write(written)

    refused = pytest.raises(OutputError, match=r"film\.\w+ could not be written: file too large")
    with small_disk(300_000), refused:
        record()
    name = "film" if origin.live else "film.partial"
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.{suffix}"]
    assert playable(tmp_path / f"{name}.{suffix}") >= 30
    sink.close()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_disk_that_is_full_at_the_end(tmp_path, result, small_disk, suffix):
    sink = open_sink(str(tmp_path / f"film.{suffix}"), Origin(rate=30))
    fill(sink, result, 120)
    size = next(tmp_path.iterdir()).stat().st_size
    refused = pytest.raises(OutputError, match="could not be written: file too large")
    with small_disk(size), refused:
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"film.partial.{suffix}"]
    assert playable(tmp_path / f"film.partial.{suffix}") >= 30


@pytest.mark.usefixtures("full_disk")
def test_disk_full_when_synced(tmp_path, result):
    sink = open_sink(str(tmp_path / "film.mp4"))
    fill(sink, result, 5)
    with pytest.raises(OutputError, match=r"no space left .*\(what was written is .*partial\.mp4"):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["film.partial.mp4"]
    assert playable(tmp_path / "film.partial.mp4") == 5


@pytest.mark.parametrize("origin", [Origin(), LIVE], ids=["file", "live"])
def test_not_writable(tmp_path, origin):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"film\.mp4 could not be written: "):
        open_sink(str(tmp_path / "file" / "film.mp4"), origin)


def test_source_itself(tmp_path, talkie):
    file = talkie()
    before = file.read_bytes()
    with pytest.raises(OutputError, match="is the source itself"):
        open_sink(str(tmp_path / "x" / ".." / "talkie.mp4").replace("x/../", ""), Origin(file=file))
    assert file.read_bytes() == before


def test_source_where_an_interrupted_run_would_leave_its_film(tmp_path, talkie):
    source = talkie().rename(tmp_path / "film.partial.mp4")
    before = source.read_bytes()
    with pytest.raises(OutputError, match=r"film\.partial\.mp4 is the source itself"):
        open_sink(str(tmp_path / "film.mp4"), Origin(file=source))
    assert source.read_bytes() == before


def test_after_close(tmp_path, result):
    sink = open_sink(str(tmp_path / "film.mp4"))
    sink.write(result(0))
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result(1))


def test_name_with_a_colon(tmp_path, monkeypatch, result, read):
    """FFmpeg would take what is before the colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    with open_sink("talk:1.mkv") as sink:
        sink.write(result(0))
    assert len(read(tmp_path / "talk:1.mkv").pictures) == 1
