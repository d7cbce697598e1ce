"""Sources of frames: cameras, streams, video files, pictures and iterators; `Source.open`."""

from __future__ import annotations

from dtir_sdk.capture.base import Captured, Source

__all__ = ["Captured", "Source"]
