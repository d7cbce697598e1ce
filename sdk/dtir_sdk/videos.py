"""Video files: every frame in order, and whole files written atomically."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from dtir_sdk.errors import OutputError, PictureError
from dtir_sdk.files import replacing
from dtir_sdk.pictures import Picture
from dtir_sdk.quiet import quiet_opencv

SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))


class VideoReader:
    """The frames of a video file, in order, each uint8 [H, W, 3] BGR.

    Args:
        path: a video file in any format that OpenCV reads.

    Attributes:
        rate: frames per second as the file says; 25 where it does not.
        length: number of frames as the file says; None where it does not.

    Raises:
        PictureError: it is missing or no video.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise PictureError(f"{path} is not there")
        if path.stat().st_size == 0:
            raise PictureError(f"{path} is empty")
        self._path = path
        with quiet_opencv():
            self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise PictureError(f"{path} is no video that can be read")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        length = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = rate if math.isfinite(rate) and rate > 0 else 25.0
        self.length = int(length) if math.isfinite(length) and length > 0 else None

    def __iter__(self) -> Iterator[Picture]:
        """Yields the remaining frames.

        Raises:
            PictureError: the file holds no frame that can be read.
        """
        read = 0
        while True:
            done, frame = self._capture.read()
            if not done:
                break
            read += 1
            yield frame.astype(np.uint8, copy=False)
        if read == 0:
            raise PictureError(f"{self._path} holds no frame that can be read")

    def close(self) -> None:
        """Closes the file; may be called again."""
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass
class VideoWriter:
    """Takes the frames of a video that `writing` writes.

    Attributes:
        frames: how many were written.
    """

    _path: Path
    _temporary: Path
    _rate: float
    _writer: cv2.VideoWriter | None = None
    frames: int = 0

    def write(self, frame: Picture) -> None:
        """Appends a frame, uint8 [H, W, 3] BGR; all must have one size.

        Raises:
            OutputError: OpenCV cannot write such a video here.
        """
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            size = (frame.shape[1], frame.shape[0])
            with quiet_opencv():
                self._writer = cv2.VideoWriter(str(self._temporary), code, self._rate, size)
            if not self._writer.isOpened():
                raise OutputError(f"{self._path} could not be opened for writing a video")
        self._writer.write(frame)
        self.frames += 1


@contextmanager
def writing(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Opens an MP4 file for writing; it appears, whole, when the block succeeds.

    Args:
        path: where to.
        rate: frames per second.

    Yields:
        The writer.

    Raises:
        OutputError: the file cannot be written, or not every frame arrived in it.
    """
    with replacing(path) as temporary:
        writer = VideoWriter(path, temporary, rate)
        try:
            yield writer
        finally:
            if writer._writer is not None:
                writer._writer.release()
        # OpenCV does not say when the disk is full: look.
        try:
            with VideoReader(temporary) as written:
                length = written.length
        except PictureError:
            length = None
        if length != writer.frames:
            raise OutputError(f"{path} could not be written whole: is the disk full?")
