"""A camera that video calls can pick, showing what is safe to show."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason
from dtir_sdk.pictures import swap_colors
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Origin, Sink
from dtir_sdk.sinks.fitting import even_size, fit

if TYPE_CHECKING:
    import pyvirtualcam

_OBS = "install OBS Studio from obsproject.com and start its virtual camera once"
_SET_UP = {
    "linux": "sudo apt install v4l2loopback-dkms && sudo modprobe v4l2loopback devices=1 "
    "exclusive_caps=1 card_label=dtir",
    "darwin": _OBS,
    "win32": _OBS,
}


class VirtualCamera(Sink):
    """Sends `Result.image` to a virtual camera, through pyvirtualcam.

    The camera keeps the size of the first picture, an odd side filled up by a pixel; pictures of
    another size are scaled into it.

    Args:
        device: such as `/dev/video9`; None is the first that there is.
        origin: of the results; its rate, or 30, is what the camera tells.

    Attributes:
        device: the camera's name, from the first picture on.

    Raises:
        OutputError: pyvirtualcam is not installed.
    """

    def __init__(self, device: str | None, origin: Origin) -> None:
        try:
            import pyvirtualcam
        except ImportError as error:
            raise OutputError(
                'a virtual camera needs pyvirtualcam: pip install "dtir[virtualcam]"'
            ) from error
        self._library = pyvirtualcam
        self.device = device
        self._rate = origin.rate or 30.0
        self._camera: pyvirtualcam.Camera | None = None
        self._size = (0, 0)
        self._closed = False

    def write(self, result: Result) -> None:
        """Sends a picture.

        Raises:
            OutputError: there is no such camera, with the line that sets one up, or it is gone.
        """
        if self._closed:
            raise OutputError("the virtual camera was used after close()")
        if self._camera is None:
            self._camera = self._open(result)
        picture = fit(result.image, *self._size)
        if result.color == "bgr":
            picture = swap_colors(picture)
        try:
            self._camera.send(picture)
        except Exception as error:
            raise OutputError(f"the virtual camera failed: {reason(error)}") from error

    def close(self) -> None:
        """Gives the camera back."""
        self._closed = True
        if self._camera is not None:
            camera, self._camera = self._camera, None
            camera.close()

    def _open(self, result: Result) -> pyvirtualcam.Camera:
        self._size = even_size(result.image)
        try:
            camera = self._library.Camera(
                *self._size, self._rate, fmt=self._library.PixelFormat.RGB, device=self.device
            )
        except Exception as error:
            name = self.device or "a virtual camera"
            raise OutputError(
                f"{name} could not be opened ({reason(error)}); to set one up: "
                f"{_SET_UP.get(sys.platform, _OBS)}"
            ) from error
        self.device = camera.device
        self.notes = (f"the virtual camera is {camera.device}",)
        return camera
