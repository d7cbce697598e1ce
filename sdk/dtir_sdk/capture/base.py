"""What every source of frames has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from dtir_sdk.closing import Closing
from dtir_sdk.pictures import Color, Picture
from dtir_sdk.results import FrameStamp

Teller = Callable[[str], None]
"""Takes one line about what happened to a source, for the user to read."""


@dataclass(frozen=True, eq=False)
class Captured:
    """One frame out of a source.

    Attributes:
        stamp: which frame it is, and when it was taken; a live source counts the frames that it
            dropped, too.
        picture: uint8 [H, W, 3] BGR, contiguous, the receiver's own.
    """

    stamp: FrameStamp
    picture: Picture = field(repr=False)


class Source(Closing):
    """Frames, one after the other, to be iterated over once, by one thread.

    A live source gives the newest frame and drops those that nobody took in time; any other gives
    every frame. `close` may be called from any thread: it wakes a reader that waits, for which the
    source has then ended; only an iterable that is not live cannot be woken. Close it, or use it in
    a `with` statement.

    Attributes:
        name: what to call it in a message; of an address without user, password and query.
        live: whether it gives the newest frame, and drops others.
        continuous: whether each frame follows the one before, as in a film; if not, each stands
            for itself.
        rate: frames per second; None where it is not known.
        length: number of frames, an estimate for some video files; None where it is not known.
        file: the video file behind it; None where there is none.
    """

    live: bool = False
    continuous: bool = True
    file: Path | None = None

    def __init__(self, name: str, *, rate: float | None = None, length: int | None = None) -> None:
        self.name = name
        self.rate = rate
        self.length = length

    @property
    def dropped(self) -> int:
        """Frames that were captured but never given; 0 but of a live source."""
        return 0

    @classmethod
    def open(
        cls,
        uri: int | str | PathLike[str] | Iterable[NDArray[Any]],
        *,
        live: bool | None = None,
        width: int | None = None,
        height: int | None = None,
        rate: float | None = None,
        color: Color = "bgr",
        timeout: float = 5.0,
        reconnects: int = 5,
        on_event: Teller | None = None,
    ) -> Source:
        """Opens a source.

        Args:
            uri: a camera's number (`0` or `"0"`) or device (`/dev/video0`); the address of a
                stream (`rtsp://`, `http://`, `udp://`, ...); a video file; a picture, a folder or
                a pattern such as `photos/*.jpg`, sorted by name, each picture a frame that stands
                for itself (those of a film come as an iterable); `sample` for the portrait that
                comes with dtir; or an iterable of frames, uint8 [H, W, 3], which are copied.
            live: whether an iterable is live: it is then read in a thread of its own. None is what
                the source is by nature: cameras and streams are live, all others are not.
            width: of a camera's frames, as a wish; what it gives instead is told to `on_event`.
            height: as `width`.
            rate: frames per second: a wish to a camera; for pictures and iterables that are not
                live, what their times are counted by, 25 where it is None.
            color: order of the channels of an iterable's frames. Whatever the source, what it gives
                is BGR.
            timeout: seconds in which a camera or a stream must answer and give each frame, and an
                iterable that is live. `close` may take as long where a device does not answer.
            reconnects: how often in a row a stream that stalls or breaks off is opened again,
                after 0.5 s at first and twice as long each time. When that does not help, a
                stream that broke off has ended, and one that stalled raises its error. With 0 a
                stream ends as soon as its server ends it.
            on_event: told in one line each what happened and is no error: that a stream is opened
                again, frames were damaged, a file ends early, a camera does not give what it was
                wished. Called in the thread that reads; what it raises ends the source.

        Returns:
            The source, open.

        Raises:
            SourceError: a camera or stream that is not there, is busy, or does not answer.
            PictureError: a file or folder that is not there or cannot be used.
            ConfigurationError: an option that does not fit the source, or is out of range.

        While frames are read, the same `SourceError` is raised for a camera or stream that stops
        giving frames, and `PictureError` for a frame that cannot be used; of pictures, the next
        one can be read after it. An iterable's own errors are passed on as they are.

        Examples:
            >>> import numpy as np
            >>> frames = [np.zeros((4, 6, 3), np.uint8), np.ones((4, 6, 3), np.uint8)]
            >>> with Source.open(frames, rate=10) as source:
            ...     [captured.stamp.seconds for captured in source]
            [0.0, 0.1]
        """
        # The kinds of sources are built upon this module.
        from dtir_sdk.capture.opening import open_source

        return open_source(
            uri,
            live=live,
            width=width,
            height=height,
            rate=rate,
            color=color,
            timeout=timeout,
            reconnects=reconnects,
            on_event=on_event,
        )

    @abstractmethod
    def __next__(self) -> Captured:
        """Gives the next frame, waiting for it.

        Raises:
            StopIteration: there are no more, or the source was closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the source holds; may be called again."""

    def __iter__(self) -> Self:
        return self
