"""Recognises what is in a picture without anyone seeing the picture.

```python
from dtir_sdk import Pipeline

with Pipeline() as pipeline:
    result = pipeline(frame)           # uint8 [H, W, 3], BGR as OpenCV gives it
    for face in result.faces:
        print(face.label, face.confidence)
    show(result.image)                 # every face that was found is a cartoon
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
    TrainingError,
)

if TYPE_CHECKING:
    from dtir_sdk.bundle import Bundle, Manifest
    from dtir_sdk.parties import Recognition, Recognizer, Restorer, Transfer
    from dtir_sdk.pictures import read_picture, write_picture
    from dtir_sdk.pipeline import Pipeline
    from dtir_sdk.results import Face, Result, Timings

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "ConfigurationError",
    "DataError",
    "DtirError",
    "EngineError",
    "Face",
    "Manifest",
    "OutputError",
    "PictureError",
    "Pipeline",
    "Recognition",
    "Recognizer",
    "Restorer",
    "Result",
    "Timings",
    "TrainingError",
    "Transfer",
    "__version__",
    "read_picture",
    "write_picture",
]

_HOMES = {
    "Bundle": "bundle",
    "Manifest": "bundle",
    "Recognition": "parties",
    "Recognizer": "parties",
    "Restorer": "parties",
    "Transfer": "parties",
    "read_picture": "pictures",
    "write_picture": "pictures",
    "Pipeline": "pipeline",
    "Face": "results",
    "Result": "results",
    "Timings": "results",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dtir_sdk' has no attribute {name!r}")
    value: object = getattr(import_module(f"dtir_sdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
