"""How close restored photos are to the photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

# In place of infinity, where a restored photo has not one wrong byte.
_PSNR_CEILING = 100.0


@dataclass(frozen=True)
class Restoration:
    """How close restored photos are to the photos, through uint8 cartoons.

    Attributes:
        source: the pictures.
        pictures: how many.
        psnr: mean over pictures, in decibels; of the squared error averaged over the channels.
        ssim: mean over pictures (Gaussian window of 11 pixels, constants 6.5025 and 58.5225;
            Wang et al., 2004).
    """

    source: str
    pictures: int
    psnr: float
    ssim: float


def measure_restoration(
    source: str, photos: NDArray[np.uint8], restored: NDArray[np.uint8]
) -> Restoration:
    """Compares restored photos with the photos.

    Args:
        source: the name of the pictures.
        photos: uint8 [N, S, S, 3].
        restored: of the same shape and order of channels.
    """
    psnr, ssim = [], []
    for pair in zip(photos, restored, strict=True):
        photo, back = (torch.from_numpy(one.copy()).permute(2, 0, 1)[None].float() for one in pair)
        decibels = float(peak_signal_noise_ratio(back, photo, data_range=255.0))
        psnr.append(min(decibels, _PSNR_CEILING))
        similarity = structural_similarity_index_measure(back, photo, data_range=255.0)
        ssim.append(float(cast("Tensor", similarity)))
    return Restoration(source, len(photos), float(np.mean(psnr)), float(np.mean(ssim)))
