"""Keeps OpenCV's own complaints off the user's terminal: errors say what is worth saying."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2

# FFmpeg would print lines of its own, such as the addresses that it reads from, with the users and
# passwords in them. It reads this once, when OpenCV first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# OpenCV moved these two in 4.13.
_log: Any = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
_SILENT = 0

# OpenCV's level belongs to the whole process: the first block in sets it, the last one out resets.
_lock = threading.Lock()
_inside = 0
_level = 0


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silences OpenCV's log for a block; blocks may overlap in several threads."""
    global _inside, _level  # noqa: PLW0603
    with _lock:
        if _inside == 0:
            _level = _log.getLogLevel()
            _log.setLogLevel(_SILENT)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _log.setLogLevel(_level)
