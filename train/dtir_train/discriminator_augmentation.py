"""DiffAugment (Zhao et al., 2020): varies what the discriminator sees, with a gradient.

Target and transferred pictures are varied alike, so that the discriminator cannot learn the
target pictures by heart, and the transfer generator is not told that cartoons are to look varied.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def varied(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Changes each picture's colours, shifts it and cuts a square out of it.

    Brightness changes by up to 0.5 of 2, saturation is multiplied by up to 2, contrast by 0.5 to
    1.5; the shift is up to an eighth of the side, and the square half a side wide. What comes in,
    or is cut out, is grey (0).

    Args:
        pictures: float [N, 3, S, S] in [-1, 1].
        random: on the CPU; source of every draw.

    Returns:
        The same shape and type; colours may leave [-1, 1].
    """
    return _cut_out(_shifted(_recoloured(pictures, random), random), random)


def _recoloured(pictures: Tensor, random: torch.Generator) -> Tensor:
    draws = torch.rand(3, len(pictures), 1, 1, 1, generator=random).to(pictures)
    brightness, saturation, contrast = draws[0] - 0.5, draws[1] * 2, draws[2] + 0.5
    pictures = pictures + brightness
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * saturation
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    recoloured: Tensor = mean + (pictures - mean) * contrast
    return recoloured


def _shifted(pictures: Tensor, random: torch.Generator) -> Tensor:
    size = pictures.shape[-1]
    most = size // 8
    places = torch.randint(0, 2 * most + 1, (len(pictures), 2), generator=random).tolist()
    padded = functional.pad(pictures, (most, most, most, most))
    return torch.stack(
        [
            picture[:, top : top + size, left : left + size]
            for picture, (top, left) in zip(padded, places, strict=True)
        ]
    )


def _cut_out(pictures: Tensor, random: torch.Generator) -> Tensor:
    count, size = len(pictures), pictures.shape[-1]
    # A square whose middle is near the rim is cut short by it.
    middles = torch.randint(0, size + 1, (2, count, 1), generator=random)
    rows, columns = (torch.arange(size) - middles + 0.5).abs() < size / 4
    kept = ~(rows[:, None, :, None] & columns[:, None, None, :])
    seen: Tensor = pictures * kept.to(pictures)
    return seen
