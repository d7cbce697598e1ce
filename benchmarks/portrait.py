"""Faces without a data set: of the portrait that comes with dtir. Needs dtir alone."""

from __future__ import annotations

import numpy as np

from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.pictures import Picture, read_picture, swap_colors
from dtir_sdk.sources import SAMPLE_PORTRAIT


def portrait_crops(size: int, count: int) -> Picture:
    """Cuts the face out as the SDK does, each time with another shift.

    Args:
        size: side S of the crops.
        count: N.

    Returns:
        uint8 [N, S, S, 3], RGB.
    """
    portrait = read_picture(SAMPLE_PORTRAIT)
    transform = alignment(FaceFinder().find(portrait)[0].landmarks, size)
    crops = []
    for shift in np.random.default_rng(0).uniform(-6, 6, (count, 2)):
        shifted = transform.copy()
        shifted[:, 2] += shift
        crops.append(crop_face(portrait, shifted, size))
    return swap_colors(np.stack(crops))
