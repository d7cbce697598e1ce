"""The losses of the paper's Section 3.3, and what recipes may put in place of its adversarial one.

Scores are the discriminator's, float32 [N, 1, H, W], without a sigmoid: above 0, or nearer to 1
for least squares, a patch looks like the target domain's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtir_train.configuration import AdversarialLoss, Recipe
from dtir_train.datasets import UNLABELLED
from dtir_train.similarity import structural_similarity

_LEAST_VARIANCE = 1e-6


def discriminator_loss(
    target_scores: Tensor, cartoon_scores: Tensor, kind: AdversarialLoss
) -> Tensor:
    """How far the scores are from telling target pictures from transferred ones.

    Args:
        target_scores: of target pictures.
        cartoon_scores: of as many transferred ones.
        kind: least squares (Mao et al., 2017), cross-entropy (Goodfellow et al., 2014) or hinge
            (Lim and Ye, 2017), each the mean of the losses of both domains; or relativistic
            (Jolicoeur-Martineau, 2019; Huang et al., 2024): cross-entropy of the question which
            one of a pair is the target picture, place by place.

    Returns:
        A scalar, 0 where every patch is told right.
    """
    if kind == "relativistic":
        return functional.softplus(cartoon_scores - target_scores).mean()
    return 0.5 * (_called(target_scores, True, kind) + _called(cartoon_scores, False, kind))


def transfer_loss(
    cartoon_scores: Tensor, target_scores: Tensor | None, kind: AdversarialLoss
) -> Tensor:
    """How far transferred pictures are from being taken for target pictures.

    Args:
        cartoon_scores: of transferred pictures.
        target_scores: of as many target pictures, for the relativistic loss; the others do not
            look at them.
        kind: as `discriminator_loss`; hinge is the negative mean of the scores, below 0 too.

    Returns:
        A scalar.

    Raises:
        ValueError: where the relativistic loss has no scores of target pictures.
    """
    if kind == "relativistic":
        if target_scores is None:
            raise ValueError("the relativistic loss compares with scores of target pictures")
        return functional.softplus(target_scores - cartoon_scores).mean()
    if kind == "hinge":
        return -cartoon_scores.mean()
    return _called(cartoon_scores, True, kind)


def gradient_penalty(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """How steep the discriminator is at these pictures: R1 of target, R2 of transferred ones.

    Args:
        discriminator: not compiled, since the penalty's own gradient goes through its gradient.
        pictures: float32 [N, 3, S, S]; no gradient is passed on to them.

    Returns:
        A scalar with a gradient for the discriminator: the squared norm of the gradient of a
        picture's mean score for its pixels, mean over pictures (Mescheder et al., 2018).
    """
    pictures = pictures.detach().requires_grad_()
    scores = discriminator(pictures).mean(dim=(1, 2, 3)).sum()
    (slopes,) = torch.autograd.grad(scores, pictures, create_graph=True)
    return slopes.square().sum(dim=(1, 2, 3)).mean()


@dataclass(frozen=True)
class Losses:
    """The generators' and the recognizer's losses of a step; scalars with a gradient.

    Attributes:
        adversarial: of the discriminator's scores of the cartoons.
        recognition: cross-entropy of the label read from the cartoons, mean over all pictures of
            the batch, of which those without a label add 0.
        restoration: mean absolute difference of photo and restored photo, both in [-1, 1].
        coarse: the `coarse_difference` of photo and restored photo; 0 where the recipe gives it no
            weight. The paper does not have it: what is left of a shade that is too light or too
            dark hides from the mean absolute difference behind that of fine detail.
        dissimilarity: 1 - SSIM of photo and restored photo, in [0, 2]; 0 where the recipe gives it
            no weight. The paper does not have it: mean absolute difference alone is content with
            blur, which SSIM is not.
        total: the weighted sum, the paper's equation for the whole system.
    """

    adversarial: Tensor
    recognition: Tensor
    restoration: Tensor
    coarse: Tensor
    dissimilarity: Tensor
    total: Tensor


def generator_losses(
    adversarial: Tensor,
    logits: Tensor,
    labels: Tensor,
    restored: Tensor,
    photos: Tensor,
    recipe: Recipe,
) -> Losses:
    """Computes the losses of the transfer generator, the recognizer and the restore generator.

    Args:
        adversarial: the `transfer_loss`; 0 while the transfer generator stands still.
        logits: float32 [N, K] of the recognizer.
        labels: int64 [N], UNLABELLED where there is none.
        restored: float32 [N, 3, S, S] in [-1, 1].
        photos: float32 [N, 3, S, S] in [-1, 1].
        recipe: the weights.
    """
    # Not the mean over those with a label: processes that share a batch have not as many each.
    recognition = functional.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, reduction="sum"
    ) / len(labels)
    restoration = functional.l1_loss(restored, photos)
    coarse = dissimilarity = torch.zeros((), device=logits.device)
    if recipe.coarse_weight:
        coarse = coarse_difference(restored, photos)
    if recipe.similarity_weight:
        dissimilarity = dissimilarity_loss(restored, photos)
    total = (
        recipe.adversarial_weight * adversarial
        + recipe.recognition_weight * recognition
        + recipe.restoration_weight * restoration
        + recipe.coarse_weight * coarse
        + recipe.similarity_weight * dissimilarity
    )
    return Losses(adversarial, recognition, restoration, coarse, dissimilarity, total)


def coarse_difference(made: Tensor, wanted: Tensor) -> Tensor:
    """How far pictures differ in what is left of them once they are made small.

    Args:
        made: float [N, 3, S, S] in [-1, 1], S at least 1.
        wanted: the same.

    Returns:
        The mean absolute difference of the means over squares of 4 by 4 pixels, and of the means
        over squares of 16 by 16, half of each. Squares that reach past the border are smaller.
    """
    by_four = _shrunk(made.float() - wanted.float())
    return 0.5 * (by_four.abs().mean() + _shrunk(by_four).abs().mean())


def _shrunk(pictures: Tensor) -> Tensor:
    return functional.avg_pool2d(pictures, 4, ceil_mode=True)


def dissimilarity_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Returns 1 - SSIM (Wang et al., 2004), in [0, 2], of pictures [N, 3, S, S] in [-1, 1]."""
    return 1.0 - structural_similarity(made, wanted)


def feature_difference(own: Tensor, taught: Tensor) -> Tensor:
    """How far features are from a teacher's (FitNets, Romero et al., 2015).

    Args:
        own: float [N, C, H, W].
        taught: the teacher's, the same.

    Returns:
        The mean squared difference as a share of the variance of the teacher's features of a
        picture, mean over pictures.
    """
    missed = (own.float() - taught.float()).square().mean(dim=(1, 2, 3))
    # Features of a picture may all be 0, behind a ReLU.
    return (missed / taught.float().var(dim=(1, 2, 3)).clamp_min(_LEAST_VARIANCE)).mean()


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far answers are from a teacher's (Hinton et al., 2015).

    Args:
        logits: float32 [N, K].
        taught: the teacher's, the same.
        temperature: that softens both, above 0.

    Returns:
        The Kullback-Leibler divergence of the labels' probabilities, mean over pictures, times the
        square of the temperature.
    """
    own, others = (functional.log_softmax(each / temperature, dim=1) for each in (logits, taught))
    return temperature**2 * functional.kl_div(own, others, reduction="batchmean", log_target=True)


def _called(scores: Tensor, real: bool, kind: AdversarialLoss) -> Tensor:
    """How far scores are from calling every patch real, or transferred."""
    if kind == "hinge":
        return functional.relu(1 - scores if real else 1 + scores).mean()
    goal = torch.full_like(scores, float(real))
    if kind == "least-squares":
        return functional.mse_loss(scores, goal)
    return functional.binary_cross_entropy_with_logits(scores, goal)
