"""Follows faces from frame to frame: who is who, where each one is by now, without trembling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.checks import check_seconds
from dtir_sdk.faces import FoundFace

_Points = NDArray[np.float32]

# Without a look for longer than this, nobody is taken to be where he was: in so many seconds
# somebody who walks across the picture goes two faces further.
LONGEST_WITHOUT_LOOK = 0.25

# The One Euro filter (Casiez et al., 2012), in face sizes and seconds: a face at rest is smoothed
# below _CUTOFF hertz, and each face size a second of speed lets _SPEED hertz more through.
_CUTOFF, _SPEED, _SPEED_CUTOFF = 1.5, 8.0, 2.0
# Off by more than this many face sizes, it did move: no detector errs so far.
_TREMBLE = 0.05
# A face that is not seen keeps on moving, but its speed halves in this many seconds.
_SLOWING = 0.15
# Further from where it should be than this many face sizes, it is somebody else.
_REACH = 1.0


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """A face in a frame of a video.

    Attributes:
        track: number of the person, from 1, never given to another.
        box: x, y, width, height in pixels of the frame, beyond which it may reach.
        landmarks: float32 [5, 2], x and y in pixels, smoothed.
        seen: whether the detector found it when it last looked.
        unseen: seconds since it was last found; 0 where it is `seen`.
        lag: pixels by which the smoothed landmarks lie off those that were found last, at most.
    """

    track: int
    box: tuple[int, int, int, int]
    landmarks: _Points
    seen: bool
    unseen: float
    lag: float


class Tracker:
    """Keeps the identities of faces over the frames of one video.

    Not for several threads at once.

    Args:
        confidence: least score in [0, 1] of a face that was not there before; one that was
            is followed down to the detector's own threshold.
        hold: seconds for which a face that is no longer found stays, at least 0. One that was
            found by the last look stays until the next, or for `LONGEST_WITHOUT_LOOK`.

    Raises:
        ConfigurationError: `hold` is negative or not finite.

    Examples:
        >>> face = FoundFace((10, 10, 20, 20), np.eye(5, 2, dtype=np.float32) * 9, 0.9)
        >>> tracker = Tracker(hold=0.5)
        >>> [one.track for one in tracker.update([face], 0.0)]
        [1]
        >>> [(one.track, one.seen) for one in tracker.update([], 0.1)]
        [(1, False)]
        >>> tracker.update([], 1.0)
        ()
    """

    def __init__(self, confidence: float = 0.6, hold: float = 1.0) -> None:
        check_seconds("hold", hold)
        self._confidence = confidence
        self._hold = hold
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, found: Sequence[FoundFace] | None, seconds: float) -> tuple[TrackedFace, ...]:
        """Takes in what the detector found in the next frame.

        Args:
            found: the faces; None where the detector did not look.
            seconds: time of the frame, not before that of the last.

        Returns:
            Every face that is there or was there within the hold time, the largest first.
        """
        for track in self._tracks:
            track.move_to(seconds)
        if found is not None:
            self._match(found, seconds)
        self._tracks = [track for track in self._tracks if self._stays(track, seconds)]
        self._tracks.sort(key=lambda track: -track.size)
        return tuple(track.face(seconds) for track in self._tracks)

    def forget(self) -> None:
        """Lets every face go: the next frame has nothing to do with those before."""
        self._tracks = []

    def _stays(self, track: _Track, seconds: float) -> bool:
        longest = max(self._hold, LONGEST_WITHOUT_LOOK) if track.seen else self._hold
        return seconds - track.last_seen <= longest

    def _match(self, found: Sequence[FoundFace], seconds: float) -> None:
        """Gives each face to the nearest track within reach, the nearest pairs first."""
        distances = sorted(
            (distance, t, f)
            for t, track in enumerate(self._tracks)
            for f, face in enumerate(found)
            if (distance := track.distance(face)) <= _REACH
        )
        tracks, faces = set(range(len(self._tracks))), set(range(len(found)))
        for track in self._tracks:
            track.seen = False
        for _, t, f in distances:
            if t in tracks and f in faces:
                tracks.remove(t)
                faces.remove(f)
                self._tracks[t].follow(found[f], seconds)
        for f in sorted(faces):
            if found[f].confidence >= self._confidence:
                self._count += 1
                self._tracks.append(_Track(self._count, found[f], seconds))


class _Track:
    def __init__(self, number: int, face: FoundFace, seconds: float) -> None:
        self.number = number
        self.last_seen = seconds
        self.seen = True
        self._now = seconds
        self._points = face.landmarks.astype(np.float64)
        self._velocity = np.zeros_like(self._points)
        self._lag = 0.0
        self._shape(face)

    @property
    def size(self) -> float:
        return math.sqrt(self._sides[0] * self._sides[1])

    def distance(self, face: FoundFace) -> float:
        """How far a found face is from here, in face sizes; far off too where sizes differ."""
        x, y = face.landmarks.mean(axis=0) - self._points.mean(axis=0)
        size = math.sqrt(face.box[2] * face.box[3])
        return math.hypot(x, y) / max(size, self.size) + abs(math.log2(size / self.size)) / 2

    def move_to(self, seconds: float) -> None:
        """Moves on by the velocity; slowing down while the face is not seen."""
        passed = max(0.0, seconds - self._now)
        if self.last_seen != self._now:
            self._velocity *= 0.5 ** (passed / _SLOWING)
        self._now = seconds
        # The whole face moves alike: single points would drift apart.
        self._points += self._velocity.mean(axis=0) * passed

    def follow(self, face: FoundFace, seconds: float) -> None:
        """Moves towards a found face, the more slowly the more still it is."""
        passed = max(seconds - self.last_seen, 1e-3)
        error = face.landmarks - self._points
        pull = _share(_SPEED_CUTOFF, passed)
        self._velocity += pull * error / passed
        speed = float(np.hypot(*self._velocity.mean(axis=0))) / self.size
        jump = max(0.0, float(np.hypot(*error.mean(axis=0))) / self.size - _TREMBLE) / passed
        self._points += _share(_CUTOFF + _SPEED * max(speed, jump), passed) * error
        self._lag = float(np.hypot(*(face.landmarks - self._points).T).max())
        self.last_seen = seconds
        self.seen = True
        self._shape(face)

    def face(self, seconds: float) -> TrackedFace:
        centre = self._points.mean(axis=0) + self._offset
        corner = np.round(centre - np.array(self._sides) / 2).astype(int)
        box = (int(corner[0]), int(corner[1]), self._sides[0], self._sides[1])
        points = self._points.astype(np.float32)
        unseen = 0.0 if self.seen else seconds - self.last_seen
        return TrackedFace(self.number, box, points, self.seen, unseen, self._lag)

    def _shape(self, face: FoundFace) -> None:
        x, y, width, height = face.box
        self._sides = (width, height)
        self._offset = np.array([x + width / 2, y + height / 2]) - face.landmarks.mean(axis=0)


def _share(cutoff: float, passed: float) -> float:
    """Share of the way to a new value that a low-pass filter goes in a time step."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff * passed))
