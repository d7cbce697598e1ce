"""dtir_ext against OpenCV's sequence of calls: `python benchmarks/crop_and_paste.py`.

Cuts a face out of a frame and sets a cartoon back in, on the SDK's sample portrait stretched onto
each frame. All measurements are interleaved, and the medians and 95th percentiles of all rounds
are written as Markdown and JSON. Needs dtir_ext: `pip install ./cpp_ext`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

import dtir_ext
from dtir_sdk.faces import crop_face_with_opencv, paste_face_with_opencv
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

FRAMES = ((640, 480), (1920, 1080))
FACES = (80, 160, 240, 320, 400)
SIZE = 128
ANGLE = 0.2  # radians: heads are seldom upright


@dataclass(frozen=True)
class Row:
    """Microseconds of one operation on one face; `gain` is the ratio of the medians."""

    operation: str
    frame: tuple[int, int]
    face: int
    opencv_median: float
    opencv_p95: float
    dtir_ext_median: float
    dtir_ext_p95: float
    gain: float


def placed(face: int, frame: tuple[int, int]) -> np.ndarray:
    """The transform of a face of so many pixels in the middle of a frame."""
    a, b = SIZE / face * np.cos(ANGLE), SIZE / face * np.sin(ANGLE)
    x, y = frame[0] / 2, frame[1] / 2
    return np.array([[a, -b, SIZE / 2 - a * x + b * y], [b, a, SIZE / 2 - b * x - a * y]])


def seconds(call: Callable[[], object]) -> float:
    """Times one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def pairs() -> dict[tuple[str, tuple[int, int], int], tuple[Callable[[], object], ...]]:
    """What is compared: OpenCV's call first, then dtir_ext's."""
    portrait = read_picture(SAMPLE_PORTRAIT)
    found: dict[tuple[str, tuple[int, int], int], tuple[Callable[[], object], ...]] = {}
    for size in FRAMES:
        frame = cv2.resize(portrait, size, interpolation=cv2.INTER_LINEAR)
        for face in FACES:
            transform = placed(face, size)
            crops = dtir_ext.crop_faces(frame, transform[None], SIZE)
            found["crop", size, face] = (
                partial(crop_face_with_opencv, frame, transform, SIZE),
                partial(dtir_ext.crop_faces, frame, transform[None], SIZE),
            )
            found["paste", size, face] = (
                partial(paste_face_with_opencv, frame.copy(), crops[0], transform),
                partial(dtir_ext.paste_faces, frame.copy(), crops, transform[None]),
            )
    return found


def measure(rounds: int) -> list[Row]:
    """Runs all calls in turn, `rounds` times, after three rounds that do not count."""
    calls = pairs()
    times: dict[tuple[str, tuple[int, int], int], tuple[list[float], list[float]]] = {
        key: ([], []) for key in calls
    }
    for number in range(-3, rounds):
        for key, peers in calls.items():
            for call, taken in zip(peers, times[key], strict=True):
                spent = seconds(call) * 1e6
                if number >= 0:
                    taken.append(spent)
    rows = []
    for (operation, size, face), (theirs, ours) in times.items():
        medians = statistics.median(theirs), statistics.median(ours)
        p95 = [float(np.percentile(values, 95)) for values in (theirs, ours)]
        gain = medians[0] / medians[1]
        rows.append(Row(operation, size, face, medians[0], p95[0], medians[1], p95[1], gain))
    return rows


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [
        "| operation | frame | face | OpenCV µs (p95) | dtir_ext µs (p95) | gain |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.operation, row.frame, row.face)):
        lines.append(
            f"| {row.operation} | {row.frame[0]}x{row.frame[1]} | {row.face} px "
            f"| {row.opencv_median:.0f} ({row.opencv_p95:.0f}) "
            f"| {row.dtir_ext_median:.0f} ({row.dtir_ext_p95:.0f}) | {row.gain:.1f}x |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints the table, and writes it and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("dtir-output"))
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "opencv": cv2.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "dtir_ext": dtir_ext.__version__,
        "rounds": arguments.rounds,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = markdown(rows)
    record = {"machine": machine, "rows": [asdict(row) for row in rows]}
    (arguments.output / "crop_and_paste.json").write_text(json.dumps(record, indent=2) + "\n")
    (arguments.output / "crop_and_paste.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
