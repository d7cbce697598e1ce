"""SSIM (Wang et al., 2004) with a gradient: how alike two pictures are in structure."""

from __future__ import annotations

from functools import cache

import torch
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from kornia.metrics import ssim
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
# From the darkest to the brightest.
_RANGE = 2.0
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2


def structural_similarity(made: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean SSIM, in [-1, 1], of pictures float32 [N, 3, S, S] in [-1, 1].

    The window is a Gaussian of 11 pixels; what lies beyond a border is its reflection.
    """
    # SSIM compares how bright pictures are, too, and wants black to be 0.
    made, wanted = made + 1, wanted + 1
    if made.device.type == "cpu":
        # Little more than half of torchmetrics' time.
        return ssim(made, wanted, _WINDOW, _RANGE).mean()
    return _similarity_on_gpu(made, wanted)


def _similarity_on_gpu(made: Tensor, wanted: Tensor) -> Tensor:
    """As kornia's, which moves its window to the GPU at each call: no CUDA graph can hold that."""
    products = [made, wanted, made * made, wanted * wanted, made * wanted]
    with torch.autocast(made.device.type, enabled=False):
        window = _window(made.device)
        # PyTorch's own kernel for such convolutions wants this memory order.
        pictures = torch.cat(products, dim=1).float().contiguous()
        blurred = filter2d_separable(pictures, window, window).chunk(5, dim=1)
    mean, other, square, other_square, product = blurred
    covariance = product - mean * other
    variances = square - mean * mean + other_square - other * other
    similar = (2 * mean * other + _C1) * (2 * covariance + _C2)
    return (similar / ((mean * mean + other * other + _C1) * (variances + _C2))).mean()


@cache
def _window(device: torch.device) -> Tensor:
    return get_gaussian_kernel1d(_WINDOW, _SIGMA).to(device)
