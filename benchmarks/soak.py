"""Half an hour of a camera that misbehaves: `python benchmarks/soak.py`.

Episodes follow each other, each a run of `Pipeline.live` from a synthetic camera into sinks (a
film, JSON Lines, a web preview that is looked at): frames that change their size, a stall that is
mended, a driver that hangs, a camera that is pulled out, a frame of another format, a callback that
raises, a folder that is taken away under a sink, the privacy shutter. Every fault must come back as
the error that it is, and no thread may be left. Memory and threads are sampled after each episode.
The C library is told to keep one heap and to give back what is free in it: left to itself it has a
heap for each of many threads, and keeps in each what it once needed, more and more by chance.

Exits with 1 where a fault was not reported, a thread was left, or memory grew by more than
`--growth`: OpenCV leaves 1 kB behind in every thread that used it, which holds on to a few pages
of the heap, and an episode starts several threads. `--leak 0.1` leaks 0.1 MB an episode on
purpose, to show that this would be seen.

Writes soak.json and soak.md into the output folder. Only on Linux with glibc, for the memory.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

import cv2
import numpy as np
import tyro
from command import one_line_errors
from conditions import write_report
from numpy.typing import NDArray
from synthetic import Motion, Scene, sample_cutout

from dtir_sdk import Pipeline, Source
from dtir_sdk.capture.live import LiveSource
from dtir_sdk.errors import ConfigurationError, OutputError, PictureError, SourceError
from dtir_sdk.files import check_writable
from dtir_sdk.pictures import Picture
from dtir_sdk.results import Result
from dtir_sdk.sinks import Origin, open_sink
from dtir_sdk.sinks.web import WebPreview

RATE = 30.0
# Frames of an episode; seconds in which the camera must answer.
LENGTH, TIMEOUT = 30, 0.3
# Results after which something happens; more frames than it takes, however slow the machine.
ENOUGH, FOR_EVER = 10, 100_000
# From malloc.h.
_M_ARENA_MAX = -8
C_LIBRARY = ctypes.CDLL(None)


@dataclass(frozen=True)
class Arguments:
    """What to do.

    Attributes:
        minutes: for how long.
        growth: MB by which memory may grow from the second third of the time to the last.
        leak: MB to leak in every episode, on purpose.
        output: folder for the report.
    """

    minutes: float = 30.0
    growth: float = 10.0
    leak: float = 0.0
    output: Path = Path("dtir-output")


@dataclass(frozen=True, slots=True)
class Sample:
    """After an episode.

    Attributes:
        seconds: since the start.
        episode: its name.
        results: how many it gave.
        reported: the error that came back, in one line; empty for none.
        as_expected: whether that is the error that it had to be.
        memory: resident, in MB, of what is in use.
        kept: resident, in MB, that was free and that the C library kept.
        threads: of the process, the libraries' own among them.
    """

    seconds: float
    episode: str
    results: int
    reported: str
    as_expected: bool
    memory: float
    kept: float
    threads: int


class ScriptedCamera:
    """A device that gives frames at its rate until its script says otherwise.

    Args:
        frames: given in turn.
        length: after how many frames it does what `ending` says.
        ending: called for the frame after the last; raises, waits, or returns None for the end.
    """

    rate: float | None = RATE
    length: int | None = None

    def __init__(
        self,
        frames: Sequence[Picture],
        length: int = LENGTH,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self._frames = itertools.islice(itertools.cycle(frames), length)
        self._ending = ending

    def read(self) -> Picture | None:
        """See `Device.read`."""
        sleep(1 / RATE)
        frame = next(self._frames, None)
        if frame is None:
            self._ending()
            return None
        return frame.copy()

    def close(self) -> None:
        """Does nothing."""


class CallbackError(Exception):
    """What the callback raises."""


class Soak:
    """The episodes. Each runs to its end, and raises what the run raises.

    Args:
        pipeline: shared by all.
        folder: to write into.

    Attributes:
        folder: as given.
        results: of the episode that runs.
        episodes: by name, with the error that each must end with.
    """

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline = pipeline
        self.folder = folder
        scene = Scene([sample_cutout()], Motion(1.0, 20.0, 0.3))
        self._frames = [scene.shoot(number).frame for number in range(LENGTH)]
        self._others = [cv2.resize(frame, (321, 241)).astype(np.uint8) for frame in self._frames]
        self.results: list[Result] = []
        self.episodes: dict[str, tuple[Callable[[], None], type[Exception] | None]] = {
            "sizes change": (self.sizes, None),
            "a stall that is mended": (self.stall, None),
            "the driver hangs": (self.hang, SourceError),
            "pulled out": (self.unplug, SourceError),
            "another format": (self.format, PictureError),
            "the callback raises": (self.callback, CallbackError),
            "the sink's folder is taken away": (self.sink, OutputError),
            "the shutter": (self.shutter, None),
        }

    def sizes(self) -> None:
        """Changes the size twice, into three sinks at once, one of which is looked at."""
        third = LENGTH // 3
        frames = [*self._frames[:third], *self._others[:third], *self._frames[:third]]
        origin = Origin(RATE, live=True)
        with (
            open_sink(str(self.folder / f"{monotonic():.3f}.mp4"), origin) as film,
            open_sink(str(self.folder / f"{monotonic():.3f}.jsonl"), origin) as lines,
            WebPreview("http://127.0.0.1:0") as web,
        ):

            def write(result: Result) -> None:
                self.results.append(result)
                for sink in (film, lines, web):
                    sink.write(result)

            with self._pipeline.live(self._camera(lambda: ScriptedCamera(frames)), write) as run:
                with urlopen(f"{web.url}stream", timeout=60) as viewer:
                    viewer.read(1000)
                run.join()
        for file in self.folder.iterdir():
            file.unlink()

    def stall(self) -> None:
        """Stalls, and goes on when it is opened again; then its end is told, too.

        Raises:
            RuntimeError: it was not told, or nothing came afterwards.
        """
        stalled = _raise(SourceError("the camera gave no frame"))
        half = LENGTH // 2
        cameras = [ScriptedCamera(self._frames, half, stalled), ScriptedCamera(self._frames, half)]

        def open_device() -> ScriptedCamera:
            if not cameras:
                raise SourceError("the camera is gone")
            return cameras.pop(0)

        told: list[str] = []
        self._run(
            LiveSource(
                "the camera",
                open_device,
                timeout=TIMEOUT,
                reconnects=1,
                first_delay=0.1,
                on_event=told.append,
            )
        )
        last = self.results[-1].stamp
        if len(told) != 2 or last is None or last.number < half:
            raise RuntimeError(f"it did not go on after the stall: {told}")

    def hang(self) -> None:
        """The driver's call does not come back in time."""
        self._run(self._camera(lambda: ScriptedCamera(self._frames, 5, lambda: sleep(3.0))))

    def unplug(self) -> None:
        """The camera is gone in the middle."""
        gone = _raise(SourceError("camera 0 was unplugged: plug it in and start again"))
        self._run(self._camera(lambda: ScriptedCamera(self._frames, LENGTH // 2, gone)))

    def format(self) -> None:
        """A frame of floats among frames of bytes."""

        def frames() -> Iterator[Picture]:
            for frame in self._frames[: LENGTH // 2]:
                sleep(1 / RATE)
                yield frame
            yield np.zeros((480, 640, 3))  # type: ignore[misc]  # This is what is wrong with it.

        self._run(Source.open(frames(), live=True))

    def callback(self) -> None:
        """The application's function fails."""

        def call(result: Result) -> None:
            self.results.append(result)
            if len(self.results) == ENOUGH:
                raise CallbackError("the application's function failed")

        source = self._camera(lambda: ScriptedCamera(self._frames, FOR_EVER))
        with self._pipeline.live(source, call) as run:
            run.join()

    def sink(self) -> None:
        """A folder of pictures is taken away while it is written into."""
        folder = self.folder / "pictures"
        with open_sink(f"{folder}/") as pictures:

            def write(result: Result) -> None:
                self.results.append(result)
                pictures.write(result)
                if len(self.results) == ENOUGH:
                    shutil.rmtree(folder)
                    folder.write_bytes(b"")

            source = self._camera(lambda: ScriptedCamera(self._others, FOR_EVER))
            try:
                with self._pipeline.live(source, write) as run:
                    run.join()
            finally:
                folder.unlink()

    def shutter(self) -> None:
        """The shutter is shut and opened: a face, then a card, then a face again.

        Raises:
            RuntimeError: the run ended before.
        """
        source = self._camera(lambda: ScriptedCamera(self._frames, FOR_EVER))
        with self._pipeline.live(source, self.results.append) as run:
            for move, face in ((run.pause, True), (run.resume, False), (run.stop, True)):
                while not self.results or bool(self.results[-1].faces) is not face:
                    if run.join(0.02):
                        raise RuntimeError("the run ended before the shutter had been opened")
                move()

    def _camera(self, open_device: Callable[[], ScriptedCamera]) -> LiveSource:
        return LiveSource("the camera", open_device, timeout=TIMEOUT)

    def _run(self, source: Source) -> None:
        with self._pipeline.live(source, self.results.append) as run:
            run.join()


def _raise(error: Exception) -> Callable[[], None]:
    def ending() -> None:
        raise error

    return ending


def run_episode(soak: Soak, name: str, start: float) -> Sample:
    """Runs an episode and looks at what it left."""
    episode, expected = soak.episodes[name]
    soak.results.clear()
    reported, kind = "", None
    try:
        episode()
    except Exception as error:
        reported, kind = f"{type(error).__name__}: {error}".splitlines()[0], type(error)
        reported = reported.replace(str(soak.folder), "FOLDER")
    given = len(soak.results)
    soak.results.clear()
    left = _own_threads()
    if left:
        reported = f"{reported}; left the threads {', '.join(left)}"
    gc.collect()
    before = _resident()
    C_LIBRARY.malloc_trim(0)
    memory = _resident()
    return Sample(
        monotonic() - start,
        name,
        given,
        reported,
        kind is expected and given > 0 and not left,
        memory,
        before - memory,
        len(list(Path("/proc/self/task").iterdir())),
    )


def _own_threads() -> list[str]:
    """The threads of dtir that are there, when they had the time that a hanging driver takes."""
    deadline = monotonic() + 30.0
    while True:
        left = [one.name for one in threading.enumerate() if one.name.startswith("dtir-")]
        if not left or monotonic() > deadline:
            return left
        sleep(0.05)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def grown(samples: Sequence[Sample]) -> float:
    """MB between the medians of the second and the last third of the time."""
    end = samples[-1].seconds
    thirds: list[list[float]] = [[], [], []]
    for sample in samples:
        thirds[min(2, int(3 * sample.seconds / end))].append(sample.memory)
    return statistics.median(thirds[2]) - statistics.median(thirds[1] or thirds[2])


def main(arguments: Arguments) -> int:
    """Runs the episodes in turn until the time is over, prints and writes.

    Returns:
        0, or 1 where something was wrong.

    Raises:
        DtirError: it cannot be measured or written.
    """
    for name in ("minutes", "growth", "leak"):
        value = getattr(arguments, name)
        if not 0 <= value < math.inf:
            raise ConfigurationError(f"{name} is {value:g}: it must be 0 or more")
    check_writable(arguments.output)
    C_LIBRARY.mallopt(_M_ARENA_MAX, 1)
    start = monotonic()
    samples: list[Sample] = []
    kept: list[NDArray[np.uint8]] = []
    with tempfile.TemporaryDirectory() as folder, Pipeline() as pipeline:
        soak = Soak(pipeline, Path(folder))
        for name in itertools.cycle(soak.episodes):
            kept.append(np.ones(round(1e6 * arguments.leak), np.uint8))
            samples.append(run_episode(soak, name, start))
            print(samples[-1], file=sys.stderr)
            if samples[-1].seconds > 60 * arguments.minutes and len(samples) >= len(soak.episodes):
                break
    wrong = [sample for sample in samples if not sample.as_expected]
    growth = grown(samples)
    # The first of each counts its threads before all that is shared was started.
    threads = [sample.threads for sample in samples[len(soak.episodes) :]]
    more = max(threads) - min(threads) if threads else 0
    fine = not wrong and growth <= arguments.growth and more == 0
    episodes = {name: [one for one in samples if one.episode == name] for name in soak.episodes}
    lines = [
        f"{samples[-1].seconds / 60:.1f} minutes, {len(samples)} episodes, "
        f"{sum(sample.results for sample in samples)} results"
        f"{f', {arguments.leak:g} MB leaked on purpose in each' if arguments.leak else ''}: "
        f"{'as it must be' if fine else 'NOT as it must be'}.",
        "",
        f"Memory grew by {growth:+.1f} MB from the second third of the time to the last "
        f"({samples[0].memory:.0f} MB after the first episode, {samples[-1].memory:.0f} MB after "
        f"the last); the number of threads varied by {more}; {len(wrong)} episodes ended "
        "otherwise than they had to.",
        "",
        "| episode | times | results | reported, the first time |",
        "|---|---|---|---|",
        *(
            f"| {name} | {len(those)} | {sum(one.results for one in those)} | {those[0].reported} |"
            for name, those in episodes.items()
        ),
    ]
    document = {
        "fine": fine,
        "leaked_mb_an_episode": arguments.leak,
        "growth_mb": growth,
        "threads_varied_by": more,
        "samples": [asdict(sample) for sample in samples],
    }
    write_report(arguments.output, "soak", document, lines)
    return 0 if fine else 1


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(tyro.cli(Arguments)))
