"""The faces of a video: they are followed, and places and labels are steadied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.cascade import Cascade
from dtir_sdk.composition import Cover, Surround, compose
from dtir_sdk.faces import FaceFinder, alignment, crop_faces
from dtir_sdk.pictures import Color, Picture, swap_colors
from dtir_sdk.results import Face, FrameStamp, Result
from dtir_sdk.session import Faces, Following, Look, Steadied, VideoSession
from dtir_sdk.tracking import LONGEST_WITHOUT_LOOK, TrackedFace, Tracker

# A person who was found once is followed down to this score.
_LEAST_CONFIDENCE = 0.3
# A face that is not seen may have moved: its cover grows by so much a second, up to twice.
_GROWTH = 1.5


class FaceSession(VideoSession):
    """Finds the faces of each frame, follows them, and covers them with their cartoons.

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
        following: Following,
        continuous: bool = True,
    ) -> None:
        super().__init__(color)
        self._cascade = cascade
        self._size, self._surround = size, surround
        self._largest = faces == "largest"
        self._continuous = continuous
        self._detect_every = following.detect_every if continuous else 1
        self._finder = FaceFinder(min(confidence, _LEAST_CONFIDENCE), threads=threads)
        self._tracker = Tracker(confidence, following.hold)
        self._people: dict[int, Steadied] = {}
        self._looked = -math.inf
        self._since = 0
        # Of the last frame that was looked at, and that was covered.
        self._shape: tuple[int, ...] | None = None
        self._covered: tuple[int, ...] | None = None

    def look(self, picture: Picture, stamp: FrameStamp, *, due: bool = False) -> Look:
        """See `VideoSession.look`."""
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
        """Covers the faces of a frame that was looked at; errors as `VideoSession.cover`."""
        passed = self._passed(look.stamp)
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
        people: dict[int, Steadied] = {}
        for n, cartoon, recognition in zip(
            fresh, cascaded.cartoons, cascaded.recognitions, strict=True
        ):
            track = wanted[n].track
            before = self._people.get(track)
            people[track] = Steadied(cartoon, recognition.probabilities).after(before, passed)
        for face in tracked:
            if face.track in self._people:
                people.setdefault(face.track, self._people[face.track])
        self._people = people
        image = self._compose(look.picture, tracked, transforms, len(wanted))
        shown = [face for face in wanted if face.track in people]
        shape = look.picture.shape
        faces = tuple(_face(people[face.track], face, self.color, shape) for face in shown)
        if self.color == "rgb":
            image = swap_colors(image)
        end = perf_counter()
        timings = cascaded.timings(
            look.detected - look.start, aligned - begin, recognized - aligned, end - recognized
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


def _face(person: Steadied, face: TrackedFace, color: Color, shape: tuple[int, ...]) -> Face:
    label, confidence = person.likeliest
    return Face(
        _within(face.box, shape),
        label,
        confidence,
        dict(person.probabilities),
        person.cartoon_in(color),
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
