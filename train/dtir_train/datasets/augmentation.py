"""Random variation of a batch of pictures, every draw from a source that the caller seeds."""

from __future__ import annotations

import math

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

from dtir_train.datasets.draws import Draws

_CPU = torch.device("cpu")
# In pixels: a Gaussian this narrow leaves a picture as it is.
_NO_BLUR = 0.1


def moved(pictures: Tensor, jitter: float, flip: bool, draws: Draws) -> Tensor:
    """Shifts, zooms, turns and mirrors each picture; what comes in repeats the edge.

    Args:
        pictures: float32 [N, C, S, S] in [0, 255].
        jitter: largest shift and zoom as a share of the side; half of it is the largest turn in
            radians.
        flip: mirror half of the pictures.
        draws: for each of the pictures.

    Returns:
        float32 [N, C, S, S] in [0, 255], on the pictures' device, as everywhere here.
    """
    count = len(pictures)
    if not jitter and not flip:
        return pictures
    zoom, angle, right, down = ((2 * draws.uniform(4) - 1) * jitter).unbind(dim=1)
    mirror = torch.ones(count)
    if flip:
        mirror -= 2 * (draws.uniform() < 0.5).float()
    angle, scale = angle * 0.5, 1 + zoom
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos * mirror, -sin, 2 * right], dim=1),
        torch.stack([sin * mirror, cos, 2 * down], dim=1),
    ]
    matrices = torch.stack(rows, dim=1).to(pictures.device)
    grid = functional.affine_grid(matrices, list(pictures.shape), align_corners=False)
    # Bilinearly, detail four pixels wide would lose a fifth of its contrast, and the networks would
    # learn to restore softer photos than they are given.
    sampled = functional.grid_sample(
        pictures, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return sampled.clamp_(0, 255)


def recoloured(pictures: Tensor, jitter: float, draws: Draws) -> Tensor:
    """Changes each picture's brightness, contrast and saturation.

    Args:
        pictures: float32 [N, 3, S, S] in [0, 255].
        jitter: largest relative change.
        draws: for each of the pictures.

    Returns:
        float32 [N, 3, S, S] in [0, 255].
    """
    if not jitter:
        return pictures
    factors = 1 + (2 * draws.uniform(3, 1, 1, 1) - 1) * jitter
    brightness, contrast, saturation = factors.to(pictures.device).unbind(dim=1)
    # Few passes over the pictures: they take longer than what is computed in them.
    grey = pictures.mean(dim=1, keepdim=True)
    varied = torch.lerp(grey, pictures, saturation)
    # Saturation leaves the mean as it is.
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    return varied.mul_(contrast).add_(mean * (brightness - contrast)).clamp_(0, 255)


def blurred(pictures: Tensor, largest: float, draws: Draws) -> Tensor:
    """Blurs each picture, as cameras and their distance from a face do more or less.

    Args:
        pictures: float32 [N, C, S, S].
        largest: standard deviation of the Gaussian in pixels; a picture's own is drawn from 0 to
            this. Three times as many pixels must be fewer than S.
        draws: for each of the pictures.

    Returns:
        float32 [N, C, S, S].
    """
    if not largest:
        return pictures
    window = 2 * math.ceil(3 * largest) + 1
    widths = (draws.uniform(1) * largest).clamp_min(_NO_BLUR).to(pictures.device)
    return gaussian_blur2d(pictures, (window, window), widths.expand(-1, 2))


def random_backgrounds(size: int, draws: Draws, device: torch.device = _CPU) -> Tensor:
    """Draws backgrounds as a room might be: smooth shades, some with hard-edged patches.

    Args:
        size: side S in pixels.
        draws: for each of N pictures.
        device: where to make them.

    Returns:
        float32 [N, 3, S, S] in [0, 255].
    """
    shade = (draws.uniform(3, 1, 1) * 200 + 28).to(device)
    octaves = (2, 4, 8, 16)
    patches = torch.zeros(len(shade), 3, octaves[-1], octaves[-1])
    picture = shade.expand(-1, 3, size, size).clone()
    for octave in octaves:
        strength = draws.uniform(1, 1, 1) * 70 / math.sqrt(octave)
        grey = draws.normal(1, octave, octave)
        tint = draws.normal(3, octave, octave) * 0.5
        coarse = (grey + tint) * strength
        hard = draws.uniform(1, 1, 1) < 0.3
        # Enlarged all at once below: patches of an octave are whole patches of the next.
        patches += functional.interpolate(coarse * hard, patches.shape[2:], mode="nearest")
        smooth = (coarse * ~hard).to(device)
        picture += functional.interpolate(smooth, (size, size), mode="bilinear")
    picture += functional.interpolate(patches.to(device), (size, size), mode="nearest")
    return picture.clamp_(0, 255)
