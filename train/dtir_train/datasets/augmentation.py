"""Random variation of a batch of pictures, every draw from a generator that the caller seeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def moved(pictures: Tensor, jitter: float, flip: bool, random: torch.Generator) -> Tensor:
    """Shifts, zooms, turns and mirrors each picture; what comes in repeats the edge.

    Args:
        pictures: float32 [N, C, S, S].
        jitter: largest shift and zoom as a share of the side; half of it is the largest turn in
            radians.
        flip: mirror half of the pictures.
        random: source of every draw.

    Returns:
        float32 [N, C, S, S].
    """
    count = len(pictures)
    if not jitter and not flip:
        return pictures
    zoom, angle, right, down = (2 * torch.rand(4, count, generator=random) - 1) * jitter
    mirror = torch.ones(count)
    if flip:
        mirror -= 2 * (torch.rand(count, generator=random) < 0.5).float()
    angle, scale = angle * 0.5, 1 + zoom
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos * mirror, -sin, 2 * right], dim=1),
        torch.stack([sin * mirror, cos, 2 * down], dim=1),
    ]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1), list(pictures.shape), align_corners=False
    )
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def recoloured(pictures: Tensor, jitter: float, random: torch.Generator) -> Tensor:
    """Changes each picture's brightness, contrast and saturation.

    Args:
        pictures: float32 [N, 3, S, S] in [0, 255].
        jitter: largest relative change.
        random: source of every draw.

    Returns:
        float32 [N, 3, S, S] in [0, 255].
    """
    if not jitter:
        return pictures
    factors = 1 + (2 * torch.rand(3, len(pictures), 1, 1, 1, generator=random) - 1) * jitter
    brightness, contrast, saturation = factors
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * saturation
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    varied: Tensor = mean * brightness + (pictures - mean) * contrast
    return varied.clamp(0, 255)


def random_backgrounds(count: int, size: int, random: torch.Generator) -> Tensor:
    """Draws backgrounds as a room might be: smooth shades, some with hard-edged patches.

    Args:
        count: N.
        size: side S in pixels.
        random: source of every draw.

    Returns:
        float32 [N, 3, S, S] in [0, 255].
    """
    shade = torch.rand(count, 3, 1, 1, generator=random) * 200 + 28
    picture = shade.expand(count, 3, size, size).clone()
    for octave in (2, 4, 8, 16):
        strength = torch.rand(count, 1, 1, 1, generator=random) * 70 / math.sqrt(octave)
        grey = torch.randn(count, 1, octave, octave, generator=random)
        tint = torch.randn(count, 3, octave, octave, generator=random) * 0.5
        smooth = functional.interpolate(grey + tint, (size, size), mode="bilinear")
        blocks = functional.interpolate(grey + tint, (size, size), mode="nearest")
        hard = (torch.rand(count, 1, 1, 1, generator=random) < 0.3).float()
        picture += strength * (hard * blocks + (1 - hard) * smooth)
    return picture.clamp(0, 255)
