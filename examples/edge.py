"""The edge: a camera whose faces become cartoons here, and whose labels come from the cloud.

It holds the transfer generator alone, `dtir-export --role edge --output bundle-edge`. With
`cloud.py` waiting, `python examples/edge.py bundle-edge http://127.0.0.1:8000 0` runs the first
camera; in place of 0 may stand a stream, a video, a picture or a folder of pictures.
"""

import json
import sys
from http.client import HTTPException
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from dtir_sdk import DtirError, Pipeline

if len(sys.argv) != 4 or not sys.argv[2].startswith(("http://", "https://")):
    sys.exit(f"usage: python {sys.argv[0]} BUNDLE http://HOST:PORT SOURCE")
bundle, address, source = sys.argv[1:]


def ask_the_cloud(cartoons: NDArray[np.uint8]) -> list[dict[str, float]]:
    """Only cartoons leave. PNG or JPEG would be smaller; from a JPEG no photo can be restored."""
    try:
        with urlopen(Request(address, cartoons.tobytes()), timeout=5) as answer:
            read: list[dict[str, float]] = json.load(answer)
            return read
    except (OSError, HTTPException, ValueError) as error:  # the camera goes on without it
        print(f"{address}: {error}", file=sys.stderr)
        return [{"not read": 1.0}] * len(cartoons)


try:
    with Pipeline(bundle, recognizer=ask_the_cloud) as pipeline, pipeline.stream(source) as live:
        for result in live:  # result.image is safe to show
            print([f"{face.track}: {face.label} {face.confidence:.0%}" for face in result.faces])
except DtirError as error:
    sys.exit(f"error: {error}")
