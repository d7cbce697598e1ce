"""The live loop and the way through a file: `python benchmarks/live.py --deface PATH`.

- A synthetic camera of 640x480 (`synthetic.py`: a face that moves, sensor noise; the frames are
  made before, so that the source itself takes no time) at 30 and at 60 frames a second, with one
  face and with four: results a second, time from capture to result, and frames dropped after the
  first two seconds.
- An H.264 file with one face: `dtir run film.mp4 --to out.mp4` against `deface film.mp4`, whole
  commands, start-up included, in interleaved rounds. deface (PyPI) is best installed with
  onnxruntime in an environment of its own.
- Flicker: how much the cartoon of a still face before a noisy camera changes from frame to frame,
  followed and not followed, beside how much what the camera gives changes.

Writes live.json and live.md into the output folder.
"""

from __future__ import annotations

import math
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import av
import numpy as np
import tyro
from command import check_counts, one_line_errors, run_seconds
from conditions import write_report
from numpy.typing import NDArray
from synthetic import HEIGHT, WIDTH, Cutout, Motion, Scene, read_cutouts, sample_cutout

from dtir_sdk import Pipeline, Source
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.files import check_writable
from dtir_sdk.pictures import Picture
from dtir_sdk.results import Result

MODERATE = Motion(speed=1.0, turn=20.0, zoom=0.3)
STILL = Motion(speed=0.0, turn=0.0, zoom=0.0, shutter=0.0)
WARM_UP = 2.0
FILM_RATE = 30


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        deface: the program to compare with, its name on PATH or its file; none leaves that out.
        faces: folder or zip as `faces_hq` is; the portrait that comes with dtir if none.
        output: folder for the report.
        seconds: length of each live run, without warm-up, and of the film.
        rounds: how often each program goes through the film.
        still: how many frames of the still face.
        seed: of all that is left to chance.
    """

    deface: str | None = None
    faces: Path | None = None
    output: Path = Path("dtir-output")
    seconds: float = 20.0
    rounds: int = 5
    still: int = 150
    seed: int = 0


@dataclass(frozen=True)
class LiveFigures:
    """What a live run did after warm-up.

    Attributes:
        rate: frames a second that the source was to give.
        given: frames a second that it gave.
        faces: in each frame.
        results: a second.
        latency_p50: milliseconds from capture to result, median.
        latency_p95: the same, 95th percentile.
        dropped: frames.
        found: mean number of faces in a result.
    """

    rate: float
    given: float
    faces: int
    results: float
    latency_p50: float
    latency_p95: float
    dropped: int
    found: float


class Clockwork:
    """A camera's pace: gives the frames to and fro, each when it is due.

    Args:
        frames: uint8 [H, W, 3] each.
        rate: frames per second.
        seconds: after which it ends.
    """

    def __init__(self, frames: Sequence[Picture], rate: float, seconds: float) -> None:
        self._frames, self._rate, self._seconds = frames, rate, seconds
        self.due: list[float] = []

    def __iter__(self) -> Iterator[Picture]:
        """Yields until the time is over; a frame whose time has gone by is never given."""
        start = perf_counter()
        number = 0
        turn = 2 * (len(self._frames) - 1)
        while number < self._seconds * self._rate:
            wait = start + number / self._rate - perf_counter()
            if wait > 0:
                sleep(wait)
            self.due.append(perf_counter())
            at = number % turn
            yield self._frames[min(at, turn - at)]
            number = max(number + 1, int((perf_counter() - start) * self._rate))


def run_live(
    pipeline: Pipeline, frames: Sequence[Picture], faces: int, rate: float, seconds: float
) -> LiveFigures:
    """Runs a synthetic camera, warm-up first."""
    camera = Clockwork(frames, rate, WARM_UP + seconds)
    arrived: list[float] = []
    latencies: list[float] = []
    found: list[int] = []
    dropped = 0
    with pipeline.stream(Source.open(camera, live=True)) as stream:
        for result in stream:
            now = perf_counter()
            assert result.stamp is not None
            if result.stamp.seconds < WARM_UP:
                dropped = stream.statistics.dropped
                continue
            arrived.append(now)
            latencies.append(1e3 * (now - result.stamp.captured))
            found.append(len(result.faces))
        dropped = stream.statistics.dropped - dropped
    p50, p95 = np.percentile(latencies, (50, 95))
    given = [due for due in camera.due if due >= camera.due[0] + WARM_UP]
    return LiveFigures(
        rate,
        (len(given) - 1) / (given[-1] - given[0]),
        faces,
        (len(arrived) - 1) / (arrived[-1] - arrived[0]),
        float(p50),
        float(p95),
        dropped,
        statistics.mean(found),
    )


def write_film(path: Path, frames: Sequence[Picture], length: int) -> None:
    """Writes frames, to and fro, as H.264 at 30 frames a second."""
    turn = 2 * (len(frames) - 1)
    with av.open(path, "w") as film:
        stream = film.add_stream("libx264", FILM_RATE, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FILM_RATE)
        for number in range(length):
            at = number % turn
            picture = av.VideoFrame.from_ndarray(frames[min(at, turn - at)], format="bgr24")
            picture.pts, picture.time_base = number, Fraction(1, FILM_RATE)
            film.mux(stream.encode(picture))
        film.mux(stream.encode())


def program(name: str) -> Path:
    """Finds a program.

    Args:
        name: on PATH, or its file.

    Raises:
        ConfigurationError: there is none that can be run.
    """
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(
            f"{name} is not on PATH and no file that can be run: give --deface the program's file"
        )
    return Path(found).absolute()


def run_films(
    film: Path, length: int, deface: Path | None, rounds: int
) -> dict[str, dict[str, Any]]:
    """Runs whole commands over a film, in turn; one round goes before that does not count.

    Raises:
        PeerError: a command failed.
    """
    commands: dict[str, list[str | Path]] = {
        "dtir run": [sys.executable, "-m", "dtir_sdk", "run", film, "--to", "ours.mp4"]
    }
    if deface is not None:
        commands["deface"] = [deface, film, "--output", "theirs.mp4"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in random.sample(list(commands.items()), len(commands)):
            taken = run_seconds(name, command, film.parent)
            if number:
                times[name].append(taken)
    duration = length / FILM_RATE
    return {
        name: {
            "seconds": taken,
            "median": statistics.median(taken),
            "p95": float(np.percentile(taken, 95)),
            "times_real_time": duration / statistics.median(taken),
        }
        for name, taken in times.items()
    }


@dataclass(frozen=True)
class Flicker:
    """Mean absolute difference from frame to frame, in grey levels of 255.

    Attributes:
        camera: of the face before it becomes a cartoon, cut out at one place.
        followed: of the cartoon, by `Pipeline.video`.
        alone: of the cartoon where each frame is a picture of its own.
        followed_shown: in `Result.image`, where the face is.
        alone_shown: the same, each frame a picture of its own.
    """

    camera: float
    followed: float
    alone: float
    followed_shown: float
    alone_shown: float


def measure_flicker(pipeline: Pipeline, frames: Sequence[Picture]) -> Flicker:
    """Runs a still face through a pipeline, followed and not."""
    found = FaceFinder().find(frames[0])
    place = alignment(found[0].landmarks, pipeline.bundle.manifest.image_size)
    size = pipeline.bundle.manifest.image_size
    session = pipeline.video()
    followed = [session(frame, number / FILM_RATE) for number, frame in enumerate(frames)]
    alone = [pipeline(frame) for frame in frames]
    x, y, width, height = found[0].box
    part = (slice(y, y + height), slice(x, x + width))
    return Flicker(
        _difference([crop_face(frame, place, size) for frame in frames]),
        _difference(_cartoons(followed)),
        _difference(_cartoons(alone)),
        _difference([result.image[part] for result in followed]),
        _difference([result.image[part] for result in alone]),
    )


def _cartoons(results: Sequence[Result]) -> list[Picture]:
    return [result.faces[0].cartoon for result in results]


def _difference(pictures: Sequence[Picture]) -> float:
    stacked: NDArray[np.int16] = np.stack(pictures).astype(np.int16)
    return float(np.abs(np.diff(stacked, axis=0)).mean())


def main(arguments: Arguments) -> None:
    """Measures, prints and writes.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_counts(rounds=arguments.rounds)
    check_writable(arguments.output)
    if arguments.still < 2:
        raise ConfigurationError(f"still is {arguments.still}: it must be 2 or more")
    if not 1 <= arguments.seconds < math.inf:
        raise ConfigurationError(f"seconds is {arguments.seconds:g}: it must be 1 or more")
    if arguments.seed < 0:
        raise ConfigurationError(f"seed is {arguments.seed}: it must be 0 or more")
    deface = None if arguments.deface is None else program(arguments.deface)
    people = _people(arguments)
    length = round(arguments.seconds * FILM_RATE)
    with Pipeline() as pipeline:
        live = []
        for faces, rates in ((1, (30.0, 60.0)), (4, (30.0, 60.0))):
            for rate in rates:
                scene = Scene(people[:faces], MODERATE, rate=rate, seed=arguments.seed)
                frames = [scene.shoot(number).frame for number in range(150)]
                live.append(run_live(pipeline, frames, faces, rate, arguments.seconds))
        still = Scene(people[:1], STILL, seed=arguments.seed)
        frames = [still.shoot(number).frame for number in range(arguments.still)]
        flicker = measure_flicker(pipeline, frames)
        engine = str(pipeline.engine)
    scene = Scene(people[:1], MODERATE, rate=FILM_RATE, seed=arguments.seed)
    frames = [scene.shoot(number).frame for number in range(150)]
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write_film(film, frames, length)
        del frames
        films = run_films(film, length, deface, arguments.rounds)
    document = {
        "engine": engine,
        "live": [asdict(figures) for figures in live],
        "film": {"frames": length, "rate": FILM_RATE, **films},
        "flicker": asdict(flicker),
    }
    lines = [
        f"Live, {WIDTH}x{HEIGHT}, {engine}:",
        "",
        "| faces | source, frames/s | results/s | latency p50, ms | p95, ms | dropped | found |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.faces} | {one.rate:.0f} (gave {one.given:.1f}) | {one.results:.1f} "
            f"| {one.latency_p50:.1f} | {one.latency_p95:.1f} | {one.dropped} | {one.found:.2f} |"
            for one in live
        ),
        "",
        f"A film of {length} frames at {FILM_RATE} a second, whole commands:",
        "",
        "| command | median, s | p95 | times real time |",
        "|---|---|---|---|",
        *(
            f"| {name} | {values['median']:.2f} | {values['p95']:.2f} "
            f"| {values['times_real_time']:.2f} |"
            for name, values in films.items()
        ),
        "",
        "A still face before a noisy camera, mean absolute difference from frame to frame, of 255:",
        "",
        "| what | cut out | where the face is shown |",
        "|---|---|---|",
        f"| the camera's picture | {flicker.camera:.2f} | |",
        f"| cartoon, followed | {flicker.followed:.2f} | {flicker.followed_shown:.2f} |",
        f"| cartoon, each frame alone | {flicker.alone:.2f} | {flicker.alone_shown:.2f} |",
    ]
    write_report(arguments.output, "live", document, lines)


def _people(arguments: Arguments) -> list[Cutout]:
    if arguments.faces is None:
        return [sample_cutout()] * 4
    return read_cutouts(arguments.faces, 4, seed=arguments.seed)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments))
