"""Sources that lose no frame: video files, pictures, and iterables of arrays."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import length_hint
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.capture.base import Captured, Source, Teller
from dtir_sdk.pictures import Color, Picture, check_picture, read_picture, swap_colors
from dtir_sdk.results import FrameStamp
from dtir_sdk.videos import VideoReader

# What times are counted by where nothing says how fast frames follow each other.
_DEFAULT_RATE = 25.0
# A file that lacks more than this share of what it promised is told of.
_MISSING_SHARE = 0.05


class VideoSource(Source):
    """Every frame of a video file, with the times that the file says.

    Args:
        path: the file.
        on_event: see `Source.open`.

    Raises:
        PictureError: it is missing or no video.
    """

    def __init__(self, path: Path, on_event: Teller | None = None) -> None:
        self._video = VideoReader(path)
        super().__init__(str(path), rate=self._video.rate, length=self._video.length)
        self.file = path
        self._tell = on_event
        # OpenCV must not free a video while it reads it.
        self._reading = threading.Lock()
        self._over = False

    def __next__(self) -> Captured:
        with self._reading:
            read = None if self._over else self._video.read()
            ended = read is None and not self._over
            self._over = read is None
        if ended:
            self._tell_what_is_missing()
        if read is None:
            raise StopIteration
        seconds, picture = read
        self._end = seconds + 1 / self._video.rate
        return Captured(FrameStamp(self._video.frames - 1, seconds, perf_counter()), picture)

    def close(self) -> None:
        """Closes the file, when the frame that is being read has been; may be called again."""
        with self._reading:
            self._over = True
            self._video.close()

    def _tell_what_is_missing(self) -> None:
        if self._tell is None:
            return
        video = self._video
        if video.damaged:
            self._tell(f"{self.name}: damaged frames that were left out: {video.damaged}")
        # The number of frames is often but an estimate from the duration: both must fall short.
        if video.length is not None:
            least = (1 - _MISSING_SHARE) * video.length
            if video.frames + video.damaged < least and self._end < least / video.rate:
                self._tell(
                    f"{self.name} ended after {video.frames} of about {video.length} frames: it "
                    "may be cut short or damaged"
                )


class PictureSource(Source):
    """Picture files, each a frame for itself; one that cannot be read raises, the next one follows.

    Args:
        name: what to call them all.
        paths: the files, in order.
        rate: frames per second that their times are counted by; None is 25.
    """

    continuous = False

    def __init__(self, name: str, paths: Sequence[Path], rate: float | None = None) -> None:
        super().__init__(name, rate=rate, length=len(paths))
        self._paths = tuple(paths)
        self._number = 0
        self._closed = False

    def __next__(self) -> Captured:
        if self._closed or self._number == len(self._paths):
            raise StopIteration
        number = self._number
        self._number += 1
        picture = read_picture(self._paths[number])
        return Captured(_counted(number, self.rate), picture)

    def close(self) -> None:
        """Gives no further picture."""
        self._closed = True


class IterableSource(Source):
    """Arrays out of an iterable, which is read in the thread that takes the frames.

    `close` stops the source before its next frame; it cannot wake an iterable that waits.

    Args:
        frames: uint8 [H, W, 3] each.
        rate: frames per second that their times are counted by; None is 25.
        color: order of their channels.
    """

    def __init__(
        self, frames: Iterable[NDArray[Any]], rate: float | None = None, color: Color = "bgr"
    ) -> None:
        length = -1
        # Some have a length, and raise an error of any kind when asked for it.
        with suppress(Exception):
            length = length_hint(frames, -1)
        super().__init__("the iterable of frames", rate=rate, length=None if length < 0 else length)
        self._frames = own_frames(frames, color)
        self._number = 0
        self._closed = False

    def __next__(self) -> Captured:
        if self._closed:
            raise StopIteration
        picture = next(self._frames)
        # It may have been closed while it waited.
        if self._closed:
            raise StopIteration
        captured = Captured(_counted(self._number, self.rate), picture)
        self._number += 1
        return captured

    def close(self) -> None:
        """Gives no further frame; the iterable itself is the caller's to close."""
        self._closed = True


def own_frames(frames: Iterable[NDArray[Any]], color: Color = "bgr") -> Iterator[Picture]:
    """Checks arrays and copies them, since the giver may write to them again.

    Args:
        frames: uint8 [H, W, 3] each.
        color: order of their channels.

    Yields:
        uint8 [H, W, 3] BGR each, contiguous.

    Raises:
        PictureError: one is no such array.
    """
    for number, frame in enumerate(frames):
        picture = check_picture(frame, f"frame {number}")
        yield swap_colors(picture) if color == "rgb" else np.array(picture, order="C")


def _counted(number: int, rate: float | None) -> FrameStamp:
    return FrameStamp(number, number / (rate or _DEFAULT_RATE), perf_counter())
