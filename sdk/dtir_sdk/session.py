"""A video's frames, one after the other: what every kind of session has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, SupportsFloat

from numpy.typing import NDArray

from dtir_sdk.checks import check_seconds, check_whole, is_number
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.faces import FoundFace
from dtir_sdk.pictures import Color, Picture, check_picture, swap_colors
from dtir_sdk.results import FrameStamp, Result

Faces = Literal["all", "largest"]

# Labels are averaged over about this many seconds.
_LABEL_SECONDS = 0.4


@dataclass(frozen=True)
class Following:
    """How faces are followed through a video.

    Attributes:
        detect_every: look for faces in every n-th frame, and in any that is more than 0.25 s after
            the last look; in those between, a face that is new is not covered yet.
        hold: seconds for which a face that is no longer found stays covered.

    Raises:
        ConfigurationError: a value is out of range, or `detect_every` no whole number.
    """

    detect_every: int = 1
    hold: float = 1.0

    def __post_init__(self) -> None:
        check_whole("detect_every", self.detect_every)
        check_seconds("hold", self.hold)


@dataclass(frozen=True)
class Look:
    """What the detector made of a frame.

    Attributes:
        picture: the frame, uint8 [H, W, 3] BGR.
        found: the faces; None where the detector did not look.
        stamp: which frame.
        start: `time.perf_counter()` before the detector looked.
        detected: the same after it.
    """

    picture: Picture = field(repr=False)
    found: tuple[FoundFace, ...] | None
    stamp: FrameStamp
    start: float
    detected: float


@dataclass(frozen=True, eq=False)
class Steadied:
    """A cartoon, and what was read from it and from those before it.

    Attributes:
        cartoon: uint8 [S, S, 3], BGR.
        probabilities: every label's, averaged.
    """

    cartoon: Picture
    probabilities: dict[str, float]

    def after(self, before: Steadied | None, passed: float) -> Steadied:
        """Averages the labels with those of the frames before, if these were the same labels.

        Args:
            before: of the last frame; None where this is the first.
            passed: seconds since then.
        """
        # Who reads elsewhere may read another label all of a sudden, or say that nothing was read.
        if before is None or before.probabilities.keys() != self.probabilities.keys():
            return self
        keep = math.exp(-passed / _LABEL_SECONDS)
        mixed = {
            label: keep * before.probabilities[label] + (1 - keep) * value
            for label, value in self.probabilities.items()
        }
        return Steadied(self.cartoon, mixed)

    @property
    def likeliest(self) -> tuple[str, float]:
        """The likeliest label, and its probability."""
        return max(self.probabilities.items(), key=lambda pair: pair[1])

    def cartoon_in(self, color: Color) -> Picture:
        """The cartoon in a colour order, the caller's own."""
        return swap_colors(self.cartoon) if color == "rgb" else self.cartoon.copy()


class VideoSession(ABC):
    """Turns the frames of one video, in order, into results that are safe to show.

    Made by `Pipeline.video` and `stream`. For one thread at a time; many sessions may share a
    pipeline. `look` and `cover` are the two halves of a call, for two threads that overlap.

    Args:
        color: order of the channels of the frames taken and the pictures given.

    Attributes:
        color: order of the channels of the pictures given.
    """

    def __init__(self, color: Color) -> None:
        self.color: Color = color
        self._number = 0
        self._seconds = -math.inf

    def __call__(self, frame: NDArray[Any], seconds: SupportsFloat) -> Result:
        """Takes the next frame.

        Args:
            frame: uint8 [H, W, 3], in the session's colour order; not written to, not kept.
            seconds: its time in the video, not before that of the last frame.

        Returns:
            The faces with the numbers of their tracks, and the picture that is safe to show.

        Raises:
            PictureError: the frame has another type or shape.
            ConfigurationError: the time goes back, or is no finite number.
            EngineError: the engine failed or the pipeline is closed; a `RecognizerError` where the
                recognizer that it was given failed.
        """
        captured = perf_counter()
        if not is_number(seconds):
            raise ConfigurationError(f"seconds must be a finite number, not {seconds!r}")
        picture = check_picture(frame)
        if self.color == "rgb":
            picture = swap_colors(picture)
        stamp = FrameStamp(self._number, float(seconds), captured)
        self._number += 1
        return self.cover(self.look(picture, stamp))

    @abstractmethod
    def look(self, picture: Picture, stamp: FrameStamp, *, due: bool = False) -> Look:
        """Looks for faces in the next frame, where that is due.

        Args:
            picture: uint8 [H, W, 3] BGR.
            stamp: which frame it is.
            due: whether it is due in any case, since frames are missing before this one.
        """

    @abstractmethod
    def cover(self, look: Look) -> Result:
        """Covers what is private in a frame that was looked at, and reads the labels.

        Raises:
            ConfigurationError: the frame is from before the last one.
            EngineError: the engine failed or the pipeline is closed; a `RecognizerError` where the
                recognizer that it was given failed.
        """

    def _passed(self, stamp: FrameStamp) -> float:
        """Seconds since the frame before; ConfigurationError where that one is the later."""
        if not stamp.seconds >= self._seconds:
            raise ConfigurationError(
                f"the frame of {stamp.seconds} s came after that of {self._seconds} s: "
                "give frames in the order of their time"
            )
        passed = stamp.seconds - self._seconds
        self._seconds = stamp.seconds
        return passed
