"""The losses of the paper's Section 3.3, as functions of what the networks put out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from dtir_train.configuration import AdversarialLoss, Recipe


def adversarial_loss(scores: Tensor, real: bool, kind: AdversarialLoss) -> Tensor:
    """How far the discriminator's scores are from calling every patch real, or transferred.

    Args:
        scores: float32 [N, 1, H, W], without a sigmoid.
        real: what the scores should say.
        kind: least squares (Mao et al., 2017) or cross-entropy (Goodfellow et al., 2014).

    Returns:
        A scalar, 0 where every patch says what it should.
    """
    goal = torch.full_like(scores, float(real))
    if kind == "least-squares":
        return functional.mse_loss(scores, goal)
    return functional.binary_cross_entropy_with_logits(scores, goal)


def discriminator_loss(
    target_scores: Tensor, cartoon_scores: Tensor, kind: AdversarialLoss
) -> Tensor:
    """Mean of the losses of calling target pictures real and transferred ones not."""
    return 0.5 * (
        adversarial_loss(target_scores, True, kind) + adversarial_loss(cartoon_scores, False, kind)
    )


@dataclass(frozen=True)
class Losses:
    """The generators' and the recognizer's losses of a step; scalars with a gradient.

    Attributes:
        adversarial: of the discriminator's scores of the cartoons.
        recognition: cross-entropy of the label read from the cartoons.
        restoration: mean absolute difference of photo and restored photo, both in [-1, 1].
        dissimilarity: 1 - SSIM (Wang et al., 2004) of photo and restored photo, in [0, 2]; 0 where
            the recipe gives it no weight. The paper does not have it: mean absolute difference
            alone is content with blur, which SSIM is not.
        total: the weighted sum, the paper's equation for the whole system.
    """

    adversarial: Tensor
    recognition: Tensor
    restoration: Tensor
    dissimilarity: Tensor
    total: Tensor


def generator_losses(
    cartoon_scores: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    restored: Tensor,
    photos: Tensor,
    recipe: Recipe,
) -> Losses:
    """Computes the losses of the transfer generator, the recognizer and the restore generator.

    Args:
        cartoon_scores: the discriminator's scores [N, 1, H, W], or None while the transfer
            generator stands still, when the adversarial loss is 0.
        logits: float32 [N, K] of the recognizer.
        labels: int64 [N].
        restored: float32 [N, 3, S, S] in [-1, 1].
        photos: float32 [N, 3, S, S] in [-1, 1].
        recipe: the weights and the kind of adversarial loss.
    """
    if cartoon_scores is None:
        adversarial = torch.zeros((), device=logits.device)
    else:
        adversarial = adversarial_loss(cartoon_scores, True, recipe.adversarial_loss)
    recognition = functional.cross_entropy(logits, labels)
    restoration = functional.l1_loss(restored, photos)
    if recipe.similarity_weight:
        dissimilarity = _dissimilarity(restored, photos)
    else:
        dissimilarity = torch.zeros((), device=logits.device)
    total = (
        recipe.adversarial_weight * adversarial
        + recipe.recognition_weight * recognition
        + recipe.restoration_weight * restoration
        + recipe.similarity_weight * dissimilarity
    )
    return Losses(adversarial, recognition, restoration, dissimilarity, total)


def _dissimilarity(restored: Tensor, photos: Tensor) -> Tensor:
    # channels_last halves the time of its depthwise filters on a CPU.
    similarity = structural_similarity_index_measure(
        restored.contiguous(memory_format=torch.channels_last),
        photos.contiguous(memory_format=torch.channels_last),
        data_range=(-1.0, 1.0),
    )
    return 1.0 - cast("Tensor", similarity)
