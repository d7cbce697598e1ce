"""What a pipeline gives back. A result holds no raw frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.drawing import label_box
from dtir_sdk.pictures import Color, Picture, swap_colors, write_picture


@dataclass(frozen=True)
class Timings:
    """How long the parts of a call took, in milliseconds.

    Attributes:
        detect: finding the faces.
        align: cutting them out.
        transfer: making them cartoons, with all that surrounds both networks.
        recognize: reading the label from the cartoons, in the engine; or, of a pipeline that was
            given a recognizer, until that one had answered.
        compose: setting the cartoons into the frame.
        total: the whole call.
        transfer_engine: what the engine itself took of `transfer`.
        recognizer_engine: what the engine itself took of `recognize`, which is all of it.
    """

    detect: float
    align: float
    transfer: float
    recognize: float
    compose: float
    total: float
    transfer_engine: float
    recognizer_engine: float

    @classmethod
    def none(cls) -> Timings:
        """Of a frame with which nothing was done."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Face:
    """A face that was found, as its cartoon and what was read from it.

    Of a bundle that takes whole pictures it is all of the picture.

    Attributes:
        box: x, y, width, height in pixels, clipped to the frame and never empty: of a face that has
            left the frame and is still covered, the pixel at the edge nearest to it.
        label: the likeliest label.
        confidence: its probability, in [0, 1].
        probabilities: every label's probability.
        cartoon: uint8 [S, S, 3], in the pipeline's colour order (BGR unless asked otherwise).
        landmarks: float32 [5, 2], x and y in pixels of the frame: eyes, nose tip, mouth corners;
            [0, 2] of a whole picture.
        track: number of the person in a video or a live stream, from 1, the same from frame to
            frame; None in a picture.
        seen: whether the detector found the face when it last looked; False where its last
            cartoon covers the place where it should be by now.
    """

    box: tuple[int, int, int, int]
    label: str
    confidence: float
    probabilities: Mapping[str, float]
    cartoon: Picture = field(repr=False)
    landmarks: NDArray[np.float32] = field(repr=False)
    track: int | None = None
    seen: bool = True


@dataclass(frozen=True)
class FrameStamp:
    """Which frame of a video or a live stream it was, and when.

    Attributes:
        number: from 0; frames that were dropped count too.
        seconds: its time in the video or since the stream's first frame, never decreasing.
        captured: `time.perf_counter()` when it was taken from its source.
    """

    number: int
    seconds: float
    captured: float


@dataclass(frozen=True, eq=False)
class Result:
    """What a pipeline made of a frame.

    Attributes:
        faces: the faces, the largest first; empty where none was found.
        image: uint8 [H, W, 3], safe to show: the frame with every face that was found replaced
            by its cartoon; a grey card where none was found; of a whole picture, the cartoon.
        timings: how long it took.
        color: order of the channels of `image` and of the cartoons.
        stamp: which frame it was; None for a picture.
    """

    faces: tuple[Face, ...]
    image: Picture = field(repr=False)
    timings: Timings
    color: Color = "bgr"
    stamp: FrameStamp | None = None

    def save(self, path: str | PathLike[str]) -> None:
        """Writes `image` to a file, whole or not at all.

        Args:
            path: where to; the suffix says the format.

        Raises:
            OutputError: the suffix is unknown or the file cannot be written.
        """
        write_picture(path, self.image, color=self.color)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the pictures, in types that JSON knows."""
        faces = [
            {
                "box": list(face.box),
                "label": face.label,
                "confidence": round(face.confidence, 6),
                "probabilities": {
                    label: round(value, 6) for label, value in face.probabilities.items()
                },
                "landmarks": np.round(face.landmarks.astype(float), 2).tolist(),
                **({} if face.track is None else {"track": face.track, "seen": face.seen}),
            }
            for face in self.faces
        ]
        timings = {part: round(value, 3) for part, value in asdict(self.timings).items()}
        frame: dict[str, Any] = {}
        if self.stamp is not None:
            frame = {"frame": self.stamp.number, "seconds": round(self.stamp.seconds, 6)}
        return {**frame, "faces": faces, "timings_ms": timings}

    def to_json(self) -> str:
        """Returns everything but the pictures as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def plot(self) -> Picture:
        """Draws a box with label and confidence around every face.

        Returns:
            uint8 [H, W, 3], the caller's own, in BGR for OpenCV to show or write.
        """
        picture = self.image.copy() if self.color == "bgr" else swap_colors(self.image)
        for face in self.faces:
            label_box(picture, face.box, f"{face.label} {face.confidence:.0%}")
        return picture
