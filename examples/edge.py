"""The edge: a camera whose faces become cartoons here, and whose labels come from the cloud.

It holds the transfer generator alone, `dtir-export --role edge --output bundle-edge`. With
`cloud.py` waiting, `python examples/edge.py bundle-edge http://127.0.0.1:8000 0` runs the first
camera; in place of 0 may stand a stream, a video, a picture or a folder of pictures.
"""

import json
import sys
from urllib.request import Request, urlopen

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk import DtirError, Pipeline

if len(sys.argv) != 4:
    sys.exit(f"usage: python {sys.argv[0]} BUNDLE ADDRESS SOURCE")
bundle, address, source = sys.argv[1:]


def ask_the_cloud(cartoons: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Only cartoons leave. PNG keeps every byte; JPEG would do for the label, not to restore."""
    _, sheet = cv2.imencode(".png", cartoons.reshape(-1, cartoons.shape[2], 3))
    with urlopen(Request(address, sheet.tobytes()), timeout=5) as answer:
        return np.array(json.load(answer), np.float32)


try:
    with Pipeline(bundle, recognizer=ask_the_cloud) as pipeline, pipeline.stream(source) as live:
        for result in live:  # result.image is safe to show
            print([f"{face.track}: {face.label} {face.confidence:.0%}" for face in result.faces])
except DtirError as error:
    sys.exit(f"error: {error}")
