"""dtir_ext against OpenCV's sequence of calls: `python benchmarks/crop_and_paste.py`.

Cuts a face out of a frame, sets a cartoon back in, and does both one after the other, on the SDK's
sample portrait stretched onto each frame; all in one interleaved run.

Writes crop_and_paste.json and crop_and_paste.md. Needs dtir_ext: `pip install ./cpp_ext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import tyro
from command import PeerError, one_line_errors
from conditions import write_report
from interleaved import Call, Spread, measure, spread
from numpy.typing import NDArray
from report import RESULTS, surroundings, table

from dtir_sdk.faces import crop_face_with_opencv, paste_face_with_opencv
from dtir_sdk.files import check_writable
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

OPERATIONS = ("crop", "paste", "crop and paste")
FRAMES = ((640, 480), (1920, 1080))
FACES = (80, 160, 240, 320, 400)
SIZE = 128
ANGLE = 0.2  # radians: heads are seldom upright


@dataclass(frozen=True)
class Gain:
    """One operation on one face.

    Attributes:
        operation: one of `OPERATIONS`.
        frame: width and height of the frame in pixels.
        face: side of the face in pixels.
        opencv: milliseconds of OpenCV's calls.
        dtir_ext: of dtir_ext's.
        gain: ratio of the medians.
    """

    operation: str
    frame: tuple[int, int]
    face: int
    opencv: Spread
    dtir_ext: Spread
    gain: float


def placed(face: int, frame: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the transform [2, 3] of a face of so many pixels in the middle of a frame."""
    a, b = SIZE / face * np.cos(ANGLE), SIZE / face * np.sin(ANGLE)
    x, y = frame[0] / 2, frame[1] / 2
    return np.array([[a, -b, SIZE / 2 - a * x + b * y], [b, a, SIZE / 2 - b * x - a * y]])


def operations(crop: Call, paste: Call) -> dict[str, Call]:
    """Returns what is measured of a peer."""

    def both() -> None:
        crop()
        paste()

    return {"crop": crop, "paste": paste, "crop and paste": both}


def gains(rounds: int) -> list[Gain]:
    """Measures all operations, on all faces in all frames.

    Args:
        rounds: how many, of two calls each.

    Raises:
        PeerError: dtir_ext is not installed.
    """
    try:
        import dtir_ext
    except ModuleNotFoundError as error:
        raise PeerError("dtir_ext is not installed: pip install ./cpp_ext") from error
    portrait = read_picture(SAMPLE_PORTRAIT)
    places = list(product(FRAMES, FACES))
    turns = {}
    for size, face in places:
        frame = np.asarray(cv2.resize(portrait, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        transform = placed(face, size)
        cartoon = crop_face_with_opencv(frame, transform, SIZE)
        turns[f"opencv {size} {face}"] = operations(
            partial(crop_face_with_opencv, frame, transform, SIZE),
            partial(paste_face_with_opencv, frame.copy(), cartoon, transform),
        )
        turns[f"dtir_ext {size} {face}"] = operations(
            partial(dtir_ext.crop_faces, frame, transform[None], SIZE),
            partial(dtir_ext.paste_faces, frame.copy(), cartoon[None], transform[None]),
        )
    times = measure(turns, rounds=rounds, seconds=600)
    found = []
    for operation, (size, face) in product(OPERATIONS, places):
        theirs = spread(times[f"opencv {size} {face}"][operation])
        ours = spread(times[f"dtir_ext {size} {face}"][operation])
        found.append(Gain(operation, size, face, theirs, ours, theirs.median / ours.median))
    return found


def lines(found: Sequence[Gain]) -> list[str]:
    """What was found, as Markdown."""
    header = ["operation", "frame", "face", "OpenCV µs", "p95", "dtir_ext µs", "p95", "gain"]
    rows = [
        [
            one.operation,
            f"{one.frame[0]}x{one.frame[1]}",
            f"{one.face} px",
            *(
                f"{1e3 * milliseconds:.0f}"
                for each in (one.opencv, one.dtir_ext)
                for milliseconds in (each.median, each.p95)
            ),
            f"{one.gain:.1f}x",
        ]
        for one in found
    ]
    return ["# Cropping and pasting faces", "", *table(header, rows)]


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        rounds: how many, of two calls each.
        output: folder for the report.
    """

    rounds: int = 200
    output: Path = RESULTS


def main(arguments: Arguments) -> None:
    """Measures, prints and writes.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_writable(arguments.output)
    around = surroundings()
    found = gains(arguments.rounds)
    document = {
        **around,
        "dtir_ext": version("dtir-ext"),
        "opencv_threads": cv2.getNumThreads(),
        "gains": [asdict(one) for one in found],
    }
    write_report(arguments.output, "crop_and_paste", document, lines(found))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
