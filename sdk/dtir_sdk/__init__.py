"""Recognises what is in a picture without anyone seeing the picture.

```python
from dtir_sdk import Pipeline

with Pipeline() as pipeline:
    result = pipeline(frame)           # uint8 [H, W, 3], BGR as OpenCV gives it
    for face in result.faces:
        print(face.label, face.confidence)
    show(result.image)                 # every face that was found is a cartoon
    with pipeline.stream(0) as live:   # a camera: always the newest frame
        for result in live:
            show(result.image)
```

`Transfer` (the edge), `Recognizer` (the cloud) and `Restorer` (the authority) are the three
parties' own classes, each usable with only its own file. Every error is a `DtirError`.

Importing this package loads neither OpenCV nor an engine; the names below do when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dtir_sdk.errors import (
    BundleError,
    ConfigurationError,
    DataError,
    DtirError,
    EngineError,
    OutputError,
    PictureError,
    RecognizerError,
    SourceError,
    TrainingError,
)

if TYPE_CHECKING:
    from dtir_sdk.bundle import Bundle
    from dtir_sdk.capture import Source
    from dtir_sdk.live import LiveRun, Statistics, Stream
    from dtir_sdk.manifest import Manifest
    from dtir_sdk.parties import Recognition, Recognizer, Restorer, Transfer
    from dtir_sdk.pictures import read_picture, write_picture
    from dtir_sdk.pipeline import Pipeline
    from dtir_sdk.results import Face, FrameStamp, Result, Timings
    from dtir_sdk.session import Following, VideoSession
    from dtir_sdk.sinks import Sink, open_sink

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "ConfigurationError",
    "DataError",
    "DtirError",
    "EngineError",
    "Face",
    "Following",
    "FrameStamp",
    "LiveRun",
    "Manifest",
    "OutputError",
    "PictureError",
    "Pipeline",
    "Recognition",
    "Recognizer",
    "RecognizerError",
    "Restorer",
    "Result",
    "Sink",
    "Source",
    "SourceError",
    "Statistics",
    "Stream",
    "Timings",
    "TrainingError",
    "Transfer",
    "VideoSession",
    "__version__",
    "open_sink",
    "read_picture",
    "write_picture",
]

_HOMES = {
    "Bundle": "bundle",
    "Manifest": "manifest",
    "Source": "capture",
    "LiveRun": "live",
    "Statistics": "live",
    "Stream": "live",
    "Recognition": "parties",
    "Recognizer": "parties",
    "Restorer": "parties",
    "Transfer": "parties",
    "read_picture": "pictures",
    "write_picture": "pictures",
    "Pipeline": "pipeline",
    "Face": "results",
    "FrameStamp": "results",
    "Result": "results",
    "Timings": "results",
    "Following": "session",
    "VideoSession": "session",
    "Sink": "sinks",
    "open_sink": "sinks",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dtir_sdk' has no attribute {name!r}")
    value: object = getattr(import_module(f"dtir_sdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
