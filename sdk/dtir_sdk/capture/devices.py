"""What a live source reads from: a camera, a stream, or an iterator."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.capture import v4l
from dtir_sdk.capture.addresses import host_and_port, without_secrets
from dtir_sdk.capture.base import Teller
from dtir_sdk.capture.files import own_frames
from dtir_sdk.errors import SourceError
from dtir_sdk.files import reason
from dtir_sdk.pictures import Picture, check_picture
from dtir_sdk.quiet import quiet_opencv

# A camera's first frames are often damaged.
_CAMERA_ATTEMPTS = 10
# A stream whose packets get lost has damaged frames; one that has ended fails at once, every time.
_STREAM_ATTEMPTS = 100
# One to be filled while the other is read: with a single one a camera drops every other frame.
_BUFFERS = 2


class Device(Protocol):
    """Opened, read and closed by one thread.

    Attributes:
        rate: frames per second; None where it is not known.
        length: number of frames; None where it is not known, as for anything that goes on.
    """

    rate: float | None
    length: int | None

    def read(self) -> Picture | None:
        """Waits for the next frame.

        Returns:
            uint8 [H, W, 3] BGR, the receiver's own; None when the device has ended.

        Raises:
            SourceError: it stalled, or is gone.
        """

    def close(self) -> None:
        """Frees the device."""


class Camera:
    """A camera that OpenCV reads.

    Args:
        camera: its number or its device.
        width: of the frames, as a wish; None leaves it to the camera.
        height: as `width`.
        rate: frames per second, likewise.
        timeout: seconds in which it must give each frame.
        tell: told what the camera gives where that is not what was wished.

    Raises:
        SourceError: it is not there, is busy, or cannot be used.
    """

    length: int | None = None

    def __init__(
        self,
        camera: int | Path,
        *,
        width: int | None = None,
        height: int | None = None,
        rate: float | None = None,
        timeout: float,
        tell: Teller,
    ) -> None:
        self._name = camera_name(camera)
        self._timeout = timeout
        self._node: Path | None = None
        if sys.platform == "linux":
            self._node = Path(f"/dev/video{camera}") if isinstance(camera, int) else camera
        with quiet_opencv():
            self._capture = cv2.VideoCapture(
                camera if isinstance(camera, int) else str(camera),
                cv2.CAP_ANY if self._node is None else cv2.CAP_V4L2,
            )
        if not self._capture.isOpened():
            raise SourceError(f"{self._name} {self._obstacle()}")
        self._wish(width, height, rate, tell)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
        self.rate = _positive(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> Picture:
        """See `Device.read`; a camera does not end."""
        start = perf_counter()
        for _ in range(_CAMERA_ATTEMPTS):
            with quiet_opencv():
                done, frame = self._capture.read()
            if done:
                return check_picture(frame, f"the frame of {self._name}")
            if self._node is not None and not self._node.exists():
                raise SourceError(f"{self._name} was unplugged: plug it in and start again")
            if perf_counter() - start >= self._timeout:
                break
        raise SourceError(
            f"{self._name} stopped giving frames: check its cable, and that no other program "
            "took it, and start again"
        )

    def close(self) -> None:
        """Frees the camera."""
        self._capture.release()

    def _obstacle(self) -> str:
        found = None if self._node is None else v4l.obstacle(self._node)
        return found or "could not be opened: check that it is plugged in and not in use"

    def _wish(
        self, width: int | None, height: int | None, rate: float | None, tell: Teller
    ) -> None:
        wishes = {
            cv2.CAP_PROP_FRAME_WIDTH: width,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FPS: rate,
        }
        wished = {key: value for key, value in wishes.items() if value is not None}
        if not wished:
            return
        # USB carries large frames fast enough only when they are compressed.
        self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        for key, value in wished.items():
            self._capture.set(key, value)
        if any(abs(self._capture.get(key) - value) > 0.5 for key, value in wished.items()):
            across, down, given = (self._capture.get(key) for key in wishes)
            tell(f"{self._name} gives {across:g}x{down:g} at {given:g} frames a second instead")


class NetworkStream:
    """A stream from the network that OpenCV reads through FFmpeg.

    Args:
        address: its URL.
        timeout: seconds in which it must answer, and give each frame.

    Raises:
        SourceError: it does not answer, or gives no video.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._name = without_secrets(address)
        self._timeout = timeout
        milliseconds = math.ceil(1e3 * timeout)
        start = perf_counter()
        with quiet_opencv():
            self._capture = cv2.VideoCapture(
                address,
                cv2.CAP_FFMPEG,
                [
                    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                    milliseconds,
                    cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                    milliseconds,
                    # Each thread more would hold a frame back.
                    cv2.CAP_PROP_N_THREADS,
                    1,
                ],
            )
        if not self._capture.isOpened():
            if perf_counter() - start >= timeout:
                raise SourceError(
                    f"{self._name} did not answer in {timeout:g} s: check the address, and that "
                    "the camera or server is on"
                )
            raise SourceError(f"{self._name} {_obstacle(address, timeout)}")
        self.rate = _positive(self._capture.get(cv2.CAP_PROP_FPS))
        length = _positive(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = None if length is None else int(length)

    def read(self) -> Picture | None:
        """See `Device.read`."""
        start = perf_counter()
        for _ in range(_STREAM_ATTEMPTS):
            with quiet_opencv():
                done, frame = self._capture.read()
            if done:
                return frame.astype(np.uint8, copy=False)
            if perf_counter() - start >= self._timeout:
                raise SourceError(
                    f"{self._name} gave no frame for {self._timeout:g} s: check the camera or "
                    "server, and the network"
                )
        return None

    def close(self) -> None:
        """Ends the connection."""
        self._capture.release()


class LiveFrames:
    """Arrays out of an iterable, as a device.

    Args:
        frames: uint8 [H, W, 3] BGR each; checked and copied.
    """

    rate: float | None = None
    length: int | None = None

    def __init__(self, frames: Iterable[NDArray[Any]]) -> None:
        self._frames = own_frames(frames)

    def read(self) -> Picture | None:
        """See `Device.read`.

        Raises:
            PictureError: a frame is no such array.
        """
        return next(self._frames, None)

    def close(self) -> None:
        """Does nothing: the iterable is the caller's."""


def camera_name(camera: int | Path) -> str:
    """Returns what to call a camera in a message."""
    return f"camera {camera}"


def _obstacle(address: str, timeout: float) -> str:
    """Why a stream cannot be opened, which FFmpeg keeps to itself."""
    server = host_and_port(address)
    if server is not None:
        try:
            socket.create_connection(server, timeout=timeout).close()
        # A host that can be none, such as 10.0..7, is a UnicodeError.
        except (OSError, UnicodeError) as error:
            return (
                f"could not be reached ({reason(error)}): check the address, and that the camera "
                "or server is on"
            )
    return "gives no video that can be read: check its path, user and password"


def _positive(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None
