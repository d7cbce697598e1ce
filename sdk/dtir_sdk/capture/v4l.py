"""Why a camera cannot be opened, as Linux (Video4Linux) tells it."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from dtir_sdk.files import reason

# From linux/videodev2.h.
_QUERY_CAPABILITIES = 0x80685600  # VIDIOC_QUERYCAP
_REQUEST_BUFFERS = 0xC0145608  # VIDIOC_REQBUFS
_CAPTURES = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, ..._MPLANE
_FOR_THE_NODE = 0x80000000  # V4L2_CAP_DEVICE_CAPS: not for the whole device
_CAPTURE_BUFFERS, _MEMORY_MAPPED = 1, 1


def obstacle(node: Path) -> str | None:
    """Finds out why a camera cannot be opened.

    Args:
        node: its device, such as /dev/video0.

    Returns:
        What follows on its name in an error, with what to do; None where Linux sees no reason.
    """
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        there = ", ".join(str(path) for path in sorted(node.parent.glob("video*")))
        return f"is not there: plug it in, or name one of these: {there or 'none was found'}"
    except PermissionError:
        return "may not be used by this user: run `sudo usermod -aG video $USER`, then log in again"
    except OSError as error:
        return _busy() if error.errno == errno.EBUSY else f"could not be opened: {reason(error)}"
    try:
        return _obstacle(descriptor)
    finally:
        os.close(descriptor)


def _obstacle(descriptor: int) -> str | None:
    # Not on every system, so that it cannot be imported above.
    import fcntl

    answer = bytearray(104)
    try:
        fcntl.ioctl(descriptor, _QUERY_CAPABILITIES, answer)
    except OSError:
        return "is no camera"
    device, node = struct.unpack_from("=II", answer, 84)
    if not (node if device & _FOR_THE_NODE else device) & _CAPTURES:
        return "gives no pictures: a camera has several devices, try the one before it"
    try:
        for count in (1, 0):
            request = struct.pack("=IIIII", count, _CAPTURE_BUFFERS, _MEMORY_MAPPED, 0, 0)
            fcntl.ioctl(descriptor, _REQUEST_BUFFERS, bytearray(request))
    except OSError as error:
        return _busy() if error.errno == errno.EBUSY else None
    return None


def _busy() -> str:
    return "is in use by another program: close that one"
