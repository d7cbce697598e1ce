"""Grids of sample pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def grid(rows: Sequence[NDArray[np.uint8]]) -> bytes:
    """Sets rows of pictures below each other.

    Args:
        rows: each uint8 [N, S, S, 3], BGR; rows of fewer pictures end in white.

    Returns:
        A PNG.
    """
    most = max(map(len, rows))
    strips = [np.concatenate([*row, *_white(row, most - len(row))], axis=1) for row in rows]
    return cv2.imencode(".png", np.concatenate(strips, axis=0))[1].tobytes()


def _white(row: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.full((count, *row.shape[1:]), 255, np.uint8)
