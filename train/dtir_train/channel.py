"""What happens to a cartoon on its way from the edge to the cloud, with a gradient.

The forward pass is the real thing. Backward, rounding to bytes lets the gradient straight through
(Bengio et al., 2013); JPEG's is that of a smooth model of it (Reich et al., 2024, in kornia), which
knows that colours are shared by four pixels and that fine detail does not arrive.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from dtir_train.configuration import Recipe


def to_bytes(pictures: Tensor) -> Tensor:
    """Converts pictures to bytes: float [..., 3, S, S] in [-1, 1] to uint8, same shape."""
    return pictures.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(pictures: Tensor) -> Tensor:
    """Converts bytes to pictures: uint8 to float32 in [-1, 1], same shape."""
    return pictures.float().div(127.5).sub(1)


def send(cartoons: Tensor, round_to_bytes: bool = True, jpeg_quality: int | None = None) -> Tensor:
    """Passes cartoons through the channel.

    Args:
        cartoons: float [N, 3, S, S] in [-1, 1], RGB.
        round_to_bytes: round to the 256 levels of a byte.
        jpeg_quality: 1 to 100, also compress and decompress with OpenCV's JPEG (4:2:0), which
            rounds to bytes whatever `round_to_bytes` says; None does not.

    Returns:
        float32 [N, 3, S, S] in [-1, 1]: what arrives.
    """
    cartoons = cartoons.float()
    if jpeg_quality is not None:
        arrived = from_bytes(_through_jpeg(to_bytes(cartoons), jpeg_quality))
        smooth = _smooth_jpeg(cartoons, jpeg_quality) if cartoons.requires_grad else cartoons
    elif round_to_bytes:
        arrived, smooth = from_bytes(to_bytes(cartoons)), cartoons
    else:
        return cartoons
    return smooth + (arrived - smooth).detach()


def jpeg_quality_of(recipe: Recipe, seed: int, step: int) -> int | None:
    """Returns a step's JPEG quality: the same in every process, and again after a resumption.

    Args:
        recipe: says from which to which; None in it sends no JPEG.
        seed: of the run.
        step: of it.
    """
    if recipe.jpeg_quality is None or recipe.jpeg_quality_to is None:
        return recipe.jpeg_quality
    # A key that neither shuffles nor variations have.
    draw = np.random.default_rng((seed, step, 6, 1))
    return int(draw.integers(recipe.jpeg_quality, recipe.jpeg_quality_to, endpoint=True))


def _smooth_jpeg(cartoons: Tensor, quality: int) -> Tensor:
    qualities = torch.full((len(cartoons),), float(quality), device=cartoons.device)
    return jpeg_codec_differentiable(cartoons.add(1).div(2), qualities).mul(2).sub(1)


def _through_jpeg(pictures: Tensor, quality: int) -> Tensor:
    arrived = []
    for picture in pictures.permute(0, 2, 3, 1).cpu().numpy():
        bgr = np.ascontiguousarray(picture[..., ::-1])
        _, stream = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR_RGB)
        assert decoded is not None, "OpenCV reads what it wrote"
        arrived.append(decoded)
    return torch.from_numpy(np.stack(arrived)).permute(0, 3, 1, 2).to(pictures.device)
