"""A video's frames, one after the other: faces are followed, places and labels are steadied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.cascade import Cascade
from dtir_sdk.checks import check_seconds, check_whole, is_number
from dtir_sdk.composition import Cover, Surround, compose
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.faces import FaceFinder, FoundFace, alignment, crop_faces
from dtir_sdk.pictures import Color, Picture, check_picture, swap_colors
from dtir_sdk.results import Face, FrameStamp, Result, Timings
from dtir_sdk.tracking import LONGEST_WITHOUT_LOOK, TrackedFace, Tracker

Faces = Literal["all", "largest"]

# A person who was found once is followed down to this score.
_LEAST_CONFIDENCE = 0.3
# Labels are averaged over about this many seconds.
_LABEL_SECONDS = 0.4
# A face that is not seen may have moved: its cover grows by so much a second, up to twice.
_GROWTH = 1.5


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


class VideoSession:
    """Turns the frames of one video, in order, into results that are safe to show.

    Made by `Pipeline.video` and `stream`. For one thread at a time; many sessions may share a
    pipeline. `look` and `cover` are the two halves of a call, for two threads that overlap.

    Args:
        cascade: transfer generator and recognizer.
        size: side of the crops in pixels.
        faces: `all`, or `largest` for the largest face only; the others are covered with grey.
        color: order of the channels of the frames taken and the pictures given.
        surround: see `composition.compose`.
        confidence: least score in [0, 1] of a face that was not there before.
        threads: CPU threads of the face detector; None takes all cores.
        following: how faces are followed.
        continuous: whether each frame follows the one before; if not, each stands for itself:
            faces are looked for in every one, and nobody is known again or held.

    Attributes:
        color: order of the channels of the pictures given.
    """

    def __init__(
        self,
        cascade: Cascade,
        *,
        size: int,
        faces: Faces = "all",
        color: Color = "bgr",
        surround: Surround = "keep",
        confidence: float = 0.6,
        threads: int | None = None,
        following: Following = Following(),
        continuous: bool = True,
    ) -> None:
        self._cascade = cascade
        self.color: Color = color
        self._size, self._surround = size, surround
        self._largest = faces == "largest"
        self._continuous = continuous
        self._detect_every = following.detect_every if continuous else 1
        self._finder = FaceFinder(min(confidence, _LEAST_CONFIDENCE), threads=threads)
        self._tracker = Tracker(confidence, following.hold)
        self._people: dict[int, _Person] = {}
        self._looked = -math.inf
        self._since = 0
        self._number = 0
        self._seconds = -math.inf
        # Of the last frame that was looked at, and that was covered.
        self._shape: tuple[int, ...] | None = None
        self._covered: tuple[int, ...] | None = None

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
            EngineError: the engine failed or the pipeline is closed.
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

    def look(self, picture: Picture, stamp: FrameStamp, *, due: bool = False) -> Look:
        """Looks for faces in the next frame, where that is due.

        Args:
            picture: uint8 [H, W, 3] BGR.
            stamp: which frame it is.
            due: whether it is due in any case, since frames are missing before this one.
        """
        start = perf_counter()
        self._since += 1
        blind = stamp.seconds - self._looked
        found = None
        turned = self._shape not in (None, picture.shape)
        self._shape = picture.shape
        if due or turned or self._since >= self._detect_every or not blind <= LONGEST_WITHOUT_LOOK:
            found = self._finder.find(picture)
            self._looked, self._since = stamp.seconds, 0
        return Look(picture, found, stamp, start, perf_counter())

    def cover(self, look: Look) -> Result:
        """Covers the faces of a frame that was looked at, and reads the labels.

        Raises:
            ConfigurationError: the frame is from before the last one.
            EngineError: the engine failed or the pipeline is closed.
        """
        if not look.stamp.seconds >= self._seconds:
            raise ConfigurationError(
                f"the frame of {look.stamp.seconds} s came after that of {self._seconds} s: "
                "give frames in the order of their time"
            )
        passed = look.stamp.seconds - self._seconds
        self._seconds = look.stamp.seconds
        begin = perf_counter()
        # Frames of another size, as of a camera that was turned, show nothing where it was.
        if not self._continuous or self._covered not in (None, look.picture.shape):
            self._tracker.forget()
        self._covered = look.picture.shape
        tracked = self._tracker.update(look.found, look.stamp.seconds)
        wanted = tracked[:1] if self._largest else tracked
        transforms = [alignment(face.landmarks, self._size) for face in tracked]
        fresh = [n for n, face in enumerate(wanted) if face.seen]
        crops = crop_faces(look.picture, [transforms[n] for n in fresh], self._size)
        aligned = perf_counter()
        cascaded = self._cascade(crops)
        recognized = perf_counter()
        people: dict[int, _Person] = {}
        for n, cartoon, recognition in zip(
            fresh, cascaded.cartoons, cascaded.recognitions, strict=True
        ):
            track = wanted[n].track
            before = self._people.get(track)
            people[track] = _Person(cartoon, recognition.probabilities).after(before, passed)
        for face in tracked:
            if face.track in self._people:
                people.setdefault(face.track, self._people[face.track])
        self._people = people
        image = self._compose(look.picture, tracked, transforms, len(wanted))
        shown = [face for face in wanted if face.track in people]
        shape = look.picture.shape
        faces = tuple(people[face.track].face(face, self.color, shape) for face in shown)
        if self.color == "rgb":
            image = swap_colors(image)
        end = perf_counter()
        timings = Timings(
            detect=1e3 * (look.detected - look.start),
            align=1e3 * (aligned - begin),
            transfer=1e3 * (recognized - aligned) - cascaded.recognizer_engine,
            recognize=cascaded.recognizer_engine,
            compose=1e3 * (end - recognized),
            total=1e3 * (look.detected - look.start + end - begin),
            transfer_engine=cascaded.transfer_engine,
            recognizer_engine=cascaded.recognizer_engine,
        )
        return Result(faces, image, timings, self.color, look.stamp)

    def _compose(
        self,
        picture: Picture,
        tracked: Sequence[TrackedFace],
        transforms: Sequence[NDArray[np.float64]],
        wanted: int,
    ) -> Picture:
        covers = []
        for n, (face, transform) in enumerate(zip(tracked, transforms, strict=True)):
            person = self._people.get(face.track) if n < wanted else None
            cartoon = None if person is None else person.cartoon
            side = self._size / math.hypot(transform[0, 0], transform[1, 0])
            growth = min(2.0, 1.0 + _GROWTH * face.unseen) + 2 * face.lag / side
            covers.append(Cover(transform, cartoon, growth))
        return compose(picture, covers, self._surround, self._size)


@dataclass(frozen=True, eq=False)
class _Person:
    cartoon: Picture
    probabilities: dict[str, float]

    def after(self, before: _Person | None, passed: float) -> _Person:
        """Averages the label with that of the frames before."""
        if before is None:
            return self
        keep = math.exp(-passed / _LABEL_SECONDS)
        mixed = {
            label: keep * before.probabilities[label] + (1 - keep) * value
            for label, value in self.probabilities.items()
        }
        return _Person(self.cartoon, mixed)

    def face(self, face: TrackedFace, color: Color, shape: tuple[int, ...]) -> Face:
        label, confidence = max(self.probabilities.items(), key=lambda pair: pair[1])
        cartoon = swap_colors(self.cartoon) if color == "rgb" else self.cartoon.copy()
        return Face(
            _within(face.box, shape),
            label,
            confidence,
            dict(self.probabilities),
            cartoon,
            face.landmarks,
            face.track,
            face.seen,
        )


def _within(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of a box that lies in the frame; the pixel nearest to it where none does."""
    x, y, width, height = box
    left, top = min(max(x, 0), shape[1] - 1), min(max(y, 0), shape[0] - 1)
    right, bottom = max(min(x + width, shape[1]), left + 1), max(min(y + height, shape[0]), top + 1)
    return left, top, right - left, bottom - top
