"""Results with pictures that can be told apart, and films with sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dtir_sdk.results import Face, FrameStamp, Result, Timings

RATE = 30


def result_of(
    number: int | None = None,
    *,
    seconds: float | None = None,
    size: tuple[int, int] = (96, 64),
    value: tuple[int, int, int] = (200, 60, 20),
    label: str = "männlich",
    color: str = "bgr",
    captured: float = 0.0,
) -> Result:
    """A picture of one colour, BGR, with a face; stamped where it has a number."""
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = value if color == "bgr" else value[::-1]
    face = Face(
        box=(4, 24, 20, 30),
        label=label,
        confidence=0.75,
        probabilities={label: 0.75, "weiblich": 0.25},
        cartoon=np.zeros((32, 32, 3), np.uint8),
        landmarks=np.ones((5, 2), np.float32),
    )
    stamp = None
    if number is not None:
        stamp = FrameStamp(number, number / RATE if seconds is None else seconds, captured)
    return Result((face,), image, Timings(1, 1, 1, 3, 4, 10, 1.5, 2.5), color, stamp)


@pytest.fixture
def result() -> Callable[..., Result]:
    return result_of


def read_film(path: Path) -> SimpleNamespace:
    """Times, pictures (BGR) and the sound of a film, decoded."""
    with av.open(str(path)) as film:
        frames = [
            (float(frame.time), frame.to_ndarray(format="bgr24")) for frame in film.decode(video=0)
        ]
    sound, rate, start = np.zeros(0, np.float32), 0, 0.0
    with av.open(str(path)) as film:
        if film.streams.audio:
            stream = film.streams.audio[0]
            rate, name = stream.rate, stream.codec_context.name
            packets = [bytes(packet) for packet in film.demux(stream) if packet.size]
            film.seek(0)
            resampler = av.AudioResampler("fltp", "mono", rate)
            decoded = list(film.decode(stream))
            start = float(decoded[0].time) if decoded else 0.0
            parts = [
                part.to_ndarray()[0] for frame in decoded for part in resampler.resample(frame)
            ]
            sound = np.concatenate(parts) if parts else sound
        else:
            packets, name = [], None
    return SimpleNamespace(
        times=[time for time, _ in frames],
        pictures=[picture for _, picture in frames],
        sound=sound,
        rate=rate,
        start=start,
        packets=packets,
        codec=name,
    )


@pytest.fixture
def read() -> Callable[[Path], SimpleNamespace]:
    return read_film


@pytest.fixture
def talkie(tmp_path: Path) -> Callable[..., Path]:
    """Writes a film of `seconds` with a beep from 1.0 to 1.2 s."""

    def make(
        name: str = "talkie.mp4",
        codec: str = "aac",
        seconds: float = 2.0,
        start: float = 0.0,
        rate: int = 48_000,
        layout: str = "mono",
    ) -> Path:
        path = tmp_path / name
        times = np.arange(int(rate * seconds)) / rate
        beep = (0.5 * np.sin(2 * np.pi * 1_000 * times) * ((times >= 1) & (times < 1.2))).astype(
            np.float32
        )
        with av.open(str(path), "w") as film:
            pictures = film.add_stream("mpeg4", rate=RATE)
            pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
            sound = film.add_stream(codec, rate=rate, layout=layout)
            for number in range(int(seconds * RATE)):
                picture = np.full((64, 96, 3), 4 * (number % 60), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
                frame.pts, frame.time_base = number + round(start * RATE), Fraction(1, RATE)
                film.mux(pictures.encode(frame))
            for at in range(0, len(beep), rate // 10):
                frame = av.AudioFrame.from_ndarray(beep[None, at : at + rate // 10], "fltp", "mono")
                frame.rate, frame.pts = rate, at + round(start * rate)
                frame.time_base = Fraction(1, rate)
                film.mux(sound.encode(frame))
            film.mux(pictures.encode(None))
            film.mux(sound.encode(None))
        return path

    return make


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """For a block, lets no file of this process grow beyond a number of bytes, like a full disk.

    For no longer than the block: pytest's own output may be a file.
    """
    resource = pytest.importorskip("resource", reason="this system knows no limit for files")

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
