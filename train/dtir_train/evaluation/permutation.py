"""Pixels of a photo in another order, the same for every photo of a key."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PixelPermutation:
    """Puts the pixels of square pictures in a secret order, and back.

    Args:
        side: S in pixels.
        key: the same key gives the same order.
    """

    def __init__(self, side: int, key: int) -> None:
        self._order = np.random.default_rng([key, side]).permutation(side * side)
        self._back = np.argsort(self._order)

    def apply(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Permutes uint8 [N, S, S, C]; the colours of a pixel stay together."""
        return _taken(pictures, self._order)

    def undo(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Undoes `apply`."""
        return _taken(pictures, self._back)

    def apply_tensor(self, pictures: Tensor) -> Tensor:
        """Permutes float [N, C, S, S] in the same way."""
        return pictures.flatten(2)[..., torch.from_numpy(self._order)].view_as(pictures)


def _taken(pictures: NDArray[np.uint8], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    flat = pictures.reshape(len(pictures), -1, pictures.shape[-1])
    return flat[:, order].reshape(pictures.shape)
