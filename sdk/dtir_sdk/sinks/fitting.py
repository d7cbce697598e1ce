"""Brings pictures of any size into the one size that a film or a camera has."""

from __future__ import annotations

import cv2
import numpy as np

from dtir_sdk.pictures import Picture


def even_size(picture: Picture) -> tuple[int, int]:
    """Returns width and height in pixels, an odd one raised by one, as yuv420p needs it."""
    height, width = picture.shape[:2]
    return width + width % 2, height + height % 2


def fit(picture: Picture, width: int, height: int) -> Picture:
    """Brings a picture into a size without distorting it.

    A side that is one pixel short is filled up with its last row or column. Any other size is
    scaled to fit, with black beside or above and below.

    Args:
        picture: uint8 [H, W, 3].
        width: in pixels.
        height: in pixels.

    Returns:
        uint8 [height, width, 3], contiguous; the same array where nothing is to be done.

    Examples:
        >>> fit(np.full((3, 5, 3), 7, np.uint8), 6, 4)[..., 0].tolist()[3]
        [7, 7, 7, 7, 7, 7]
        >>> fit(np.full((2, 2, 3), 7, np.uint8), 8, 4)[..., 0].tolist()[0]
        [0, 0, 7, 7, 7, 7, 0, 0]
    """
    border, black = cv2.BORDER_REPLICATE, (0, 0, 0)
    if not (0 <= width - picture.shape[1] <= 1 and 0 <= height - picture.shape[0] <= 1):
        scale = min(width / picture.shape[1], height / picture.shape[0])
        size = (
            min(width, max(1, round(picture.shape[1] * scale))),
            min(height, max(1, round(picture.shape[0] * scale))),
        )
        resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        picture, border = resized.astype(np.uint8, copy=False), cv2.BORDER_CONSTANT
    right, below = width - picture.shape[1], height - picture.shape[0]
    if not (right or below):
        return np.ascontiguousarray(picture)
    left, above = right // 2, below // 2
    filled = cv2.copyMakeBorder(
        picture, above, below - above, left, right - left, border, value=black
    )
    return filled.astype(np.uint8, copy=False)
