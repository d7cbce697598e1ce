"""Random numbers for the pictures of a batch, each picture's from a source of its own.

So a picture is varied alike, whichever process it falls to and whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class Draws:
    """What is drawn next for each of N pictures.

    Args:
        keys: one a picture, each a few non-negative numbers: the same key draws the same.
    """

    def __init__(self, keys: Iterable[tuple[int, ...]]) -> None:
        self._sources = [
            torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            for key in keys
        ]

    def among(self, chosen: Tensor) -> Draws:
        """Returns the same sources, of some of the pictures only: bool [N]."""
        some = Draws(())
        some._sources = [source for source, one in zip(self._sources, chosen, strict=True) if one]
        return some

    def uniform(self, *shape: int) -> Tensor:
        """Draws float32 [N, *shape] from [0, 1)."""
        return torch.stack([torch.rand(shape, generator=source) for source in self._sources])

    def normal(self, *shape: int) -> Tensor:
        """Draws float32 [N, *shape] with mean 0 and standard deviation 1."""
        return torch.stack([torch.randn(shape, generator=source) for source in self._sources])
