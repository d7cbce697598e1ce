"""The square that a network is given of a picture: the same in training and at an export's gate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.whole import whole_crop


def square_crop(
    picture: NDArray[np.uint8], size: int, finder: FaceFinder | None
) -> NDArray[np.uint8] | None:
    """Cuts out the largest face as the SDK does, or resizes the whole picture.

    Args:
        picture: uint8 [H, W, 3], BGR.
        size: side S of the crop.
        finder: finds the face; None takes the whole picture, stretched to a square.

    Returns:
        uint8 [S, S, 3], BGR; None where no face was found.
    """
    if finder is None:
        return whole_crop(picture, size)
    faces = finder.find(picture)
    return crop_face(picture, alignment(faces[0].landmarks, size), size) if faces else None
