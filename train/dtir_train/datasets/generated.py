"""A small generated domain pair that needs no download: shapes on noise, and flat drawings.

The secret domain is a disc or a square of random colour, place and size under noise; the label is
its shape. The target domain is white with a flat drawing in one of a few colours. It is
enough to see every loss fall and every test run; it says nothing about faces.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = ("disc", "square")
_INKS = ((230, 80, 60), (60, 160, 90), (70, 90, 200), (240, 190, 60))


def generated_secret(
    count: int, size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draws secret pictures.

    Args:
        count: how many.
        size: side S in pixels.
        seed: the same seed gives the same pictures.

    Returns:
        Pictures uint8 [count, S, S, 3], RGB, and labels int64 [count]: 0 a disc, 1 a square.
    """
    random = np.random.default_rng([seed, 1])
    labels = np.arange(count, dtype=np.int64) % 2
    pictures = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        shade = random.uniform(40, 215, 3)
        picture = np.broadcast_to(shade, (size, size, 3)).astype(np.float32).copy()
        colour = tuple(float(c) for c in (shade + 128) % 256)
        _draw(picture, int(labels[index]), colour, random)
        picture += random.normal(0, 12, picture.shape).astype(np.float32)
        pictures[index] = picture.clip(0, 255)
    return pictures, labels


def generated_target(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Draws target pictures uint8 [count, S, S, 3], RGB; arguments as `generated_secret`."""
    random = np.random.default_rng([seed, 2])
    pictures = np.full((count, size, size, 3), 255, np.uint8)
    for index in range(count):
        ink = _INKS[int(random.integers(len(_INKS)))]
        _draw(pictures[index], int(random.integers(2)), ink, random)
    return pictures


def _draw(
    picture: NDArray[np.uint8] | NDArray[np.float32],
    shape: int,
    colour: tuple[float, ...],
    random: np.random.Generator,
) -> None:
    size = picture.shape[0]
    radius = int(random.uniform(0.2, 0.32) * size)
    x, y = (int(random.uniform(radius, size - radius)) for _ in range(2))
    if shape == 0:
        cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)
    else:
        side = int(radius * 0.9)
        cv2.rectangle(picture, (x - side, y - side), (x + side, y + side), colour, -1)
