"""MP4 files without sound, written by OpenCV, where PyAV is not installed."""

from __future__ import annotations

from pathlib import Path

import cv2

from dtir_sdk.errors import OutputError
from dtir_sdk.pictures import swap_colors
from dtir_sdk.quiet import quiet_opencv
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Origin
from dtir_sdk.sinks.fitting import even_size, fit
from dtir_sdk.sinks.recording import Recording

_DEFAULT_RATE = 25.0


class PlainFilm(Recording):
    """Writes `Result.image` of every result into an .mp4 file, as MPEG-4 Part 2.

    The frame rate is constant and there is no sound, which `notes` says. An odd side is filled up
    by a pixel; a picture of another size than the first is scaled into that one. See `Place` for
    where the file lies.

    Args:
        path: where to.
        origin: of the results, not live: a film that is cut off could not be played.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        super().__init__(path, origin)
        self._note(
            f"{path} gets no sound and a constant frame rate, since PyAV is not installed: "
            'pip install "dtir[video]"'
        )
        self._rate = origin.rate or _DEFAULT_RATE
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, result: Result) -> None:
        """Encodes a picture."""
        self._check_open()
        if self._writer is None:
            self._size = even_size(result.image)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            with quiet_opencv():
                # FFmpeg takes what stands before a colon for a protocol, but in an absolute path.
                self._writer = cv2.VideoWriter(
                    str(self._place.writing.absolute()), code, self._rate, self._size
                )
            if not self._writer.isOpened():
                raise OutputError(f"{self._place.path} could not be opened for writing a video")
        picture = fit(result.image, *self._size)
        self._writer.write(picture if result.color == "bgr" else swap_colors(picture))
        self._frames += 1

    def _finish(self, whole: bool) -> None:
        if self._writer is None or self._frames == 0:
            self._discard()
            return
        self._writer.release()
        # OpenCV does not say when the disk is full: look.
        if _frames_in(self._place.writing) != self._frames:
            self._place.discard()
            raise OutputError(f"{self._place.path} could not be written whole: is the disk full?")
        self._keep(whole=whole)


def _frames_in(path: Path) -> int:
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path.absolute()))
        try:
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
