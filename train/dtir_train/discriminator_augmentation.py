"""DiffAugment (Zhao et al., 2020): varies what the discriminator sees, with a gradient.

Target and transferred pictures are varied alike, so that the discriminator cannot learn the
target pictures by heart, and the transfer generator is not told that cartoons are to look varied.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dtir_train.datasets.draws import Draws


def varied(pictures: Tensor, draws: Draws) -> Tensor:
    """Changes each picture's colours, shifts it and cuts a square out of it.

    Brightness changes by up to 0.5 of 2, saturation is multiplied by up to 2, contrast by 0.5 to
    1.5; the shift is up to an eighth of the side, and the square half a side wide. What comes in,
    or is cut out, is grey (0).

    Args:
        pictures: float [N, 3, S, S] in [-1, 1].
        draws: for each of the pictures.

    Returns:
        The same shape and type; colours may leave [-1, 1].
    """
    return _cut_out(_shifted(_recoloured(pictures, draws), draws), draws)


def _recoloured(pictures: Tensor, draws: Draws) -> Tensor:
    light, colour, span = draws.uniform(3, 1, 1, 1).to(pictures).unbind(dim=1)
    brightness, saturation, contrast = light - 0.5, colour * 2, span + 0.5
    pictures = pictures + brightness
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * saturation
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    recoloured: Tensor = mean + (pictures - mean) * contrast
    return recoloured


def _shifted(pictures: Tensor, draws: Draws) -> Tensor:
    size = pictures.shape[-1]
    most = size // 8
    places = (draws.uniform(2) * (2 * most + 1)).long().tolist()
    padded = functional.pad(pictures, (most, most, most, most))
    return torch.stack(
        [
            picture[:, top : top + size, left : left + size]
            for picture, (top, left) in zip(padded, places, strict=True)
        ]
    )


def _cut_out(pictures: Tensor, draws: Draws) -> Tensor:
    size = pictures.shape[-1]
    # A square whose middle is near the rim is cut short by it.
    middles = (draws.uniform(2, 1) * (size + 1)).long()
    rows, columns = ((torch.arange(size) - middles + 0.5).abs() < size / 4).unbind(dim=1)
    kept = ~(rows[:, None, :, None] & columns[:, None, None, :])
    seen: Tensor = pictures * kept.to(pictures)
    return seen
