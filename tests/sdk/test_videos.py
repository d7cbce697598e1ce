from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dtir_sdk.errors import PictureError
from dtir_sdk.videos import VideoReader


def frames(count: int) -> list[np.ndarray]:
    return [np.full((64, 96, 3), 10 * number, np.uint8) for number in range(count)]


@pytest.fixture
def write(write_film):
    return lambda path, count=12, rate=10.0: write_film(path, frames(count), rate)


def test_every_frame_in_order(tmp_path, write):
    path = write(tmp_path / "film.mp4")
    with VideoReader(path) as video:
        assert video.rate == pytest.approx(10)
        assert video.length == 12
        levels = [frame.mean() for frame in video]
    assert np.allclose(levels, [10 * number for number in range(12)], atol=4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"no film", b"\0" * 5000])
def test_no_video(tmp_path, data):
    (tmp_path / "film.mp4").write_bytes(data)
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(tmp_path / "film.mp4")


def test_cut_short(tmp_path, write):
    path = write(tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(path)


def test_missing_and_empty(tmp_path):
    with pytest.raises(PictureError, match="is not there"):
        VideoReader(tmp_path / "film.mp4")
    (tmp_path / "film.mp4").touch()
    with pytest.raises(PictureError, match="is empty"):
        VideoReader(tmp_path / "film.mp4")


@pytest.fixture(scope="session")
def encode():
    """Writes a video of levels 0, 10, 20... or of noise, by a given codec and pixel format."""
    av = pytest.importorskip("av", reason="PyAV, of the extra `video`, makes these videos")

    def write(
        path, count=12, *, codec="ffv1", pixels="yuv420p", size=(96, 64), times=None, noise=False
    ):
        random = np.random.default_rng(0)
        rate = 25 if codec == "mpeg2video" else 10
        base = Fraction(1, rate if times is None else 1000)
        options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, pixels
            stream.codec_context.time_base = base
            container.start_encoding()
            for number in range(count):
                array = np.full((size[1], size[0], 3), 10 * number, np.uint8)
                if noise:
                    array = random.integers(0, 256, array.shape, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(array, format="bgr24").reformat(format=pixels)
                frame.pts = number if times is None else times[number]
                frame.time_base = base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


def read(path):
    """The times, and the frames, and how many were damaged."""
    with VideoReader(path) as video:
        pairs = list(iter(video.read, None))
        assert video.frames == len(pairs)
        return [seconds for seconds, _ in pairs], [frame for _, frame in pairs], video.damaged


def test_a_variable_frame_rate(encode, tmp_path):
    times = [0, 10, 20, 200, 300, 310, 320, 900, 910, 920, 930, 2000]
    seconds, given, _ = read(encode(tmp_path / "film.mkv", times=times))
    assert np.allclose(seconds, np.array(times) / 1000)
    assert np.allclose([frame.mean() for frame in given], 10 * np.arange(12), atol=4)


def test_a_video_without_times(encode, tmp_path):
    seconds, _, _ = read(encode(tmp_path / "film.mjpeg", codec="mjpeg", pixels="yuvj420p"))
    assert np.allclose(seconds, np.arange(12) / 25)


def joined(encode, folder, *sizes):
    """Videos of these sizes in one file, each with times that start anew."""
    parts = [
        encode(folder / f"{number}.ts", codec="mpeg2video", size=size)
        for number, size in enumerate(sizes)
    ]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_times_that_go_back(encode, tmp_path):
    seconds, _, _ = read(joined(encode, tmp_path, (96, 64), (96, 64)))
    assert len(seconds) >= 23
    assert np.allclose(np.diff(seconds), 0.04)


def test_a_size_that_changes_midway(encode, tmp_path):
    _, given, _ = read(joined(encode, tmp_path, (96, 64), (160, 120)))
    assert len(given) >= 23
    assert {frame.shape for frame in given} == {(64, 96, 3)}


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        ("gray", (96, 64)),
        ("gray16le", (96, 64)),
        ("yuv420p10le", (96, 64)),
        ("yuv444p", (95, 63)),
        ("yuv420p", (95, 63)),
    ],
)
def test_grey_deep_and_odd_frames(encode, tmp_path, pixels, size):
    _, given, _ = read(encode(tmp_path / "film.mkv", pixels=pixels, size=size))
    assert all(frame.dtype == np.uint8 for frame in given)
    assert {frame.shape for frame in given} == {(size[1], size[0], 3)}
    assert np.allclose([frame.mean() for frame in given], 10 * np.arange(12), atol=4)


def test_a_damaged_frame_does_not_end_the_video(encode, tmp_path):
    path = encode(tmp_path / "film.mp4", 24, codec="mpeg4", noise=True)
    whole = read(path)
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    seconds, given, damaged = read(path)
    assert damaged >= 1
    assert len(given) == 24 - damaged
    assert seconds[-1] == whole[0][-1] == pytest.approx(2.3)


@pytest.mark.parametrize(("name", "codec"), [("film.mp4", "mpeg4"), ("film.mkv", "ffv1")])
def test_what_there_is_of_a_cut_video_is_read(encode, tmp_path, name, codec):
    path = encode(tmp_path / name, 24, codec=codec, noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    seconds, given, _ = read(path)
    assert 10 < len(given) < 20
    assert np.allclose(seconds, np.arange(len(given)) / 10)


def test_a_video_without_frames(encode, tmp_path):
    path = encode(tmp_path / "film.mkv", 0)
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(path)


def test_a_video_of_which_no_frame_can_be_read(encode, tmp_path):
    path = encode(tmp_path / "film.avi", codec="mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
        at += 8 + size + size % 2
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"film\.avi holds no frame that can be read"):
        read(path)


def test_sound_alone(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(PictureError, match="is no video"):
        VideoReader(path)


def test_a_name_with_a_colon(tmp_path, monkeypatch, write):
    write(tmp_path / "film.mp4").rename(tmp_path / "12:30.mp4")
    monkeypatch.chdir(tmp_path)
    with VideoReader(Path("12:30.mp4")) as video:
        assert video.length == 12


def test_a_folder_is_no_video(tmp_path):
    with pytest.raises(PictureError, match="could not be read: is a directory"):
        VideoReader(tmp_path)


def test_a_closed_video_gives_nothing(tmp_path, write):
    video = VideoReader(write(tmp_path / "film.mp4"))
    video.close()
    video.close()
    assert video.read() is None
