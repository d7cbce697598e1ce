"""`dtir bench`: where the time of a call goes, measured in interleaved rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dtir_sdk.errors import ConfigurationError, PictureError
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.files import write_atomically
from dtir_sdk.pictures import Picture, read_picture, swap_colors
from dtir_sdk.pipeline import Pipeline


@dataclass(frozen=True)
class Spread:
    """Milliseconds over all rounds.

    Attributes:
        median: half of the rounds took less.
        p95: 95% of the rounds took less.
    """

    median: float
    p95: float


@dataclass(frozen=True)
class Measurement:
    """What `measure` found for the largest face of a picture.

    Attributes:
        engine: the engine that was picked, and why.
        rounds: how many were measured.
        frame: width and height of the picture in pixels.
        total: a whole call of the pipeline.
        detect: finding the faces, within the call.
        transfer_engine: the transfer generator in its engine, alone, on the same crop.
        recognizer_engine: the recognizer in its engine, alone, on the same cartoon.
        compose: setting the cartoon into the frame, within the call.
        overhead_percent: what the SDK itself takes, all but detection and engines, as a share of
            the engines' time, from the medians.
    """

    engine: str
    rounds: int
    frame: tuple[int, int]
    total: Spread
    detect: Spread
    transfer_engine: Spread
    recognizer_engine: Spread
    compose: Spread
    overhead_percent: float


def sample_portrait() -> Path:
    """Finds the public-domain portrait that comes with matplotlib.

    Raises:
        PictureError: matplotlib is not installed.
    """
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data/sample_data/grace_hopper.jpg"
        if path.is_file():
            return path
    raise PictureError(
        "no picture was named, and matplotlib, whose portrait would serve, is not installed: "
        "name a picture with a face"
    )


def measure(pipeline: Pipeline, frame: Picture, rounds: int) -> Measurement:
    """Measures a pipeline for one face, and its engines alone in between.

    Args:
        pipeline: made with `faces="largest"`.
        frame: uint8 [H, W, 3], BGR, with a face.
        rounds: how often, 1 or more; as many as a tenth of them go before, unmeasured.

    Raises:
        ConfigurationError: fewer than one round.
        PictureError: the frame holds no face.
    """
    if rounds < 1:
        raise ConfigurationError(f"rounds must be 1 or more, not {rounds}")
    found = FaceFinder().find(frame)
    if not found:
        raise PictureError("the picture holds no face that is found: name another one")
    size = pipeline.bundle.manifest.image_size
    crop = swap_colors(crop_face(frame, alignment(found[0].landmarks, size), size))[np.newaxis]
    transfer, recognizer = pipeline.engines
    cartoon = np.ascontiguousarray(transfer.infer(crop))
    rows = []
    for number in range(-max(3, rounds // 10), rounds):
        timings = pipeline(frame).timings
        engine = [_timed(transfer.infer, crop), _timed(recognizer.infer, cartoon)]
        if number >= 0:
            rows.append([timings.total, timings.detect, *engine, timings.compose])
    table = np.array(rows)
    spreads = [
        Spread(float(median), float(late))
        for median, late in zip(
            np.median(table, axis=0), np.percentile(table, 95, axis=0), strict=True
        )
    ]
    engines = table[:, 2] + table[:, 3]
    own = table[:, 0] - table[:, 1] - engines
    overhead = 100 * float(np.median(own)) / float(np.median(engines))
    shape = (frame.shape[1], frame.shape[0])
    return Measurement(str(pipeline.engine), rounds, shape, *spreads, overhead)


def _timed(run: Callable[[Any], Any], batch: Picture) -> float:
    start = perf_counter()
    run(batch)
    return 1e3 * (perf_counter() - start)


def bench(
    picture: Path | None,
    *,
    bundle: Path | None,
    engine: str,
    device: str,
    precision: str,
    rounds: int,
    report: Path | None,
    console: Console,
) -> None:
    """Measures and prints.

    Args:
        picture: a picture with a face; None is matplotlib's portrait.
        bundle: see `Pipeline`, as for the three that follow.
        engine: see `Pipeline`.
        device: see `Pipeline`.
        precision: see `Pipeline`.
        rounds: how many.
        report: JSON file to write; None writes none.
        console: where to print to.

    Raises:
        DtirError: the picture, the bundle or the engine cannot be used.
    """
    path = sample_portrait() if picture is None else picture
    frame = read_picture(path)
    with Pipeline(
        bundle, engine=engine, device=device, precision=precision, faces="largest"
    ) as pipeline:
        measurement = measure(pipeline, frame, rounds)
        name = pipeline.bundle.manifest.name
    table = Table(title=f"{name}: one face of {path.name}, {rounds} rounds")
    table.add_column("part")
    table.add_column("median ms", justify="right")
    table.add_column("p95 ms", justify="right")
    for part, spread in (
        ("the whole call", measurement.total),
        ("detection", measurement.detect),
        ("transfer generator in its engine", measurement.transfer_engine),
        ("recognizer in its engine", measurement.recognizer_engine),
        ("composition", measurement.compose),
    ):
        table.add_row(part, f"{spread.median:.2f}", f"{spread.p95:.2f}")
    console.print(f"engine: {measurement.engine}", highlight=False, markup=False)
    console.print(table)
    console.print(
        f"the SDK's own overhead: {measurement.overhead_percent:.1f}% of the engines' time",
        highlight=False,
    )
    if report is not None:
        document = {"bundle": name, "picture": path.name, **asdict(measurement)}
        write_atomically(report, f"{json.dumps(document, indent=2)}\n".encode())
