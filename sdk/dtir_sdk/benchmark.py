"""`dtir bench`: where the time of a call goes, every part measured within the same call."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError, PictureError
from dtir_sdk.files import replacing
from dtir_sdk.pictures import Picture, read_picture
from dtir_sdk.pipeline import Pipeline
from dtir_sdk.session import Faces
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_sdk.terminal import table


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
        align: cutting the face out, within the call.
        transfer_engine: the transfer generator in its engine, within the call.
        recognizer_engine: the recognizer in its engine, within the call.
        compose: setting the cartoon into the frame, within the call.
        overhead_percent: what the SDK adds to the engines' own calls in transfer and
            recognition (checks, colour order, copies, labels), as a share of the engines' time;
            the median over the rounds.
    """

    engine: str
    rounds: int
    frame: tuple[int, int]
    total: Spread
    detect: Spread
    align: Spread
    transfer_engine: Spread
    recognizer_engine: Spread
    compose: Spread
    overhead_percent: float


def measure(pipeline: Pipeline, frame: Picture, rounds: int) -> Measurement:
    """Measures a pipeline for one face.

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
    rows = []
    for number in range(-max(3, rounds // 10), rounds):
        result = pipeline(frame)
        if not result.faces:
            raise PictureError("the picture holds no face that is found: name another one")
        if number >= 0:
            rows.append(list(asdict(result.timings).values()))
    columns = dict(zip(asdict(result.timings), np.array(rows).T, strict=True))
    engines = columns["transfer_engine"] + columns["recognizer_engine"]
    own = columns["transfer"] + columns["recognize"] - engines
    return Measurement(
        engine=str(pipeline.engine),
        rounds=rounds,
        frame=(frame.shape[1], frame.shape[0]),
        total=_spread(columns["total"]),
        detect=_spread(columns["detect"]),
        align=_spread(columns["align"]),
        transfer_engine=_spread(columns["transfer_engine"]),
        recognizer_engine=_spread(columns["recognizer_engine"]),
        compose=_spread(columns["compose"]),
        overhead_percent=_share(own, engines),
    )


def _spread(values: NDArray[np.float64]) -> Spread:
    return Spread(float(np.median(values)), float(np.percentile(values, 95)))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    return float(np.median(100 * part / whole))


def bench(
    picture: Path | None,
    *,
    bundle: Path | None,
    engine: str,
    device: str,
    precision: str,
    rounds: int,
    report: Path | None,
) -> str:
    """Measures.

    Args:
        picture: with a face, unless the bundle is of whole pictures; None is the sample portrait.
        bundle: see `Pipeline`, as for the three that follow.
        engine: see `Pipeline`.
        device: see `Pipeline`.
        precision: see `Pipeline`.
        rounds: how many.
        report: JSON file to write; None writes none.

    Returns:
        What was measured, in lines for people.

    Raises:
        DtirError: the picture, the bundle or the engine cannot be used, or the report cannot be
            written.
    """
    path = SAMPLE_PORTRAIT if picture is None else picture
    frame = read_picture(path)
    with ExitStack() as stack:
        place = None
        if report is not None:
            # A place that cannot be written to is told before the measurement, not after it.
            place = stack.enter_context(replacing(report))
            place.touch()
        opened = Bundle.open(bundle)
        name, crop = opened.manifest.name, opened.manifest.crop
        faces: Faces = "largest" if crop == "face" else "all"
        pipeline = stack.enter_context(
            Pipeline(opened, engine=engine, device=device, precision=precision, faces=faces)
        )
        measurement = measure(pipeline, frame, rounds)
        if place is not None:
            document = {"bundle": name, "picture": path.name, **asdict(measurement)}
            place.write_text(f"{json.dumps(document, indent=2)}\n", "utf-8")
    rows = [
        (part, f"{spread.median:.2f}", f"{spread.p95:.2f}")
        for part, spread in (
            ("the whole call", measurement.total),
            ("detection", measurement.detect),
            ("alignment", measurement.align),
            ("transfer generator in its engine", measurement.transfer_engine),
            ("recognizer in its engine", measurement.recognizer_engine),
            ("composition", measurement.compose),
        )
    ]
    return "\n".join(
        (
            f"engine: {measurement.engine}",
            f"{name}: {'one face' if crop == 'face' else 'all'} of {path.name}, {rounds} rounds",
            "",
            table(("part", "median ms", "p95 ms"), rows),
            "",
            f"transfer and recognition through the SDK: {measurement.overhead_percent:.1f}% over "
            "the bare engine calls",
        )
    )
