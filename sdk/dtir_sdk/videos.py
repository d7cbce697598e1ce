"""Video files: every frame in order, and whole files written atomically."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dtir_sdk.closing import Closing
from dtir_sdk.errors import PictureError
from dtir_sdk.files import reason
from dtir_sdk.pictures import Picture
from dtir_sdk.quiet import quiet_opencv

SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    )
)

# OpenCV stops at a frame that it cannot decode, but goes on when asked again; after so many in a
# row that fail the file has ended.
_ATTEMPTS = 100
_DEFAULT_RATE = 25.0


class VideoReader(Closing):
    """The frames of a video file, in order, each uint8 [H, W, 3] BGR.

    Frames that cannot be decoded are left out; of a file that is cut short, those that are there
    are given. Grey and 10-bit frames become 8-bit BGR, and every frame has the size of the first,
    though the file change it midway. For one thread at a time.

    Args:
        path: a video file in any format that OpenCV reads.

    Attributes:
        rate: frames per second as the file says; 25 where it does not.
        length: number of frames as the file says, or as follows from its duration; None where it
            says neither.
        frames: how many were read.
        damaged: how many were left out so far.

    Raises:
        PictureError: it is missing or no video.
    """

    def __init__(self, path: Path) -> None:
        _check_readable(path)
        self._path = path
        self._seconds = -math.inf
        self.frames = self.damaged = 0
        with quiet_opencv():
            # FFmpeg takes what stands before a colon for a protocol, but in an absolute path.
            self._capture = cv2.VideoCapture(str(path.absolute()))
        if not self._capture.isOpened():
            raise PictureError(f"{path} is no video that can be read")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        length = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _DEFAULT_RATE
        self.length = int(length) if math.isfinite(length) and length > 0 else None

    def read(self) -> tuple[float, Picture] | None:
        """Reads the next frame.

        Returns:
            The frame and, before it, its time in seconds from the video's start: what the file
            says, so that a variable frame rate is kept; where it says none, or goes back, one
            frame's duration after the last. None after the last frame or `close`.

        Raises:
            PictureError: the file holds no frame that can be read.
        """
        for failed in range(_ATTEMPTS):
            with quiet_opencv():
                done, frame = self._capture.read()
            if done:
                self.frames += 1
                self.damaged += failed
                return self._time(), frame.astype(np.uint8, copy=False)
        if self.frames == 0 and self._capture.isOpened():
            raise PictureError(f"{self._path} holds no frame that can be read")
        return None

    def __iter__(self) -> Iterator[Picture]:
        """Yields the remaining frames.

        Raises:
            PictureError: the file holds no frame that can be read.
        """
        while (read := self.read()) is not None:
            yield read[1]

    def close(self) -> None:
        """Closes the file; may be called again."""
        self._capture.release()

    def _time(self) -> float:
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        if self.frames == 1:
            self._seconds = max(0.0, seconds) if math.isfinite(seconds) else 0.0
        elif math.isfinite(seconds) and seconds > self._seconds:
            self._seconds = seconds
        else:
            self._seconds += 1 / self.rate
        return self._seconds


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise PictureError(f"{path} is empty")
    except FileNotFoundError as error:
        raise PictureError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} could not be read: {reason(error)}") from error
