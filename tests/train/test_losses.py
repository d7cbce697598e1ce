from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from dtir_train.configuration import Recipe
from dtir_train.datasets import UNLABELLED
from dtir_train.losses import (
    coarse_difference,
    discriminator_loss,
    dissimilarity_loss,
    feature_difference,
    generator_losses,
    gradient_penalty,
    transfer_loss,
)

TARGETS = torch.tensor([[[[0.0, 2.0]]]])
CARTOONS = torch.tensor([[[[1.0, -3.0]]]])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("least-squares", ((0 - 1) ** 2 + (2 - 1) ** 2 + 1**2 + 3**2) / 4),
        ("cross-entropy", (softplus(-0) + softplus(-2) + softplus(1) + softplus(-3)) / 4),
        # Real ones are to be above 1, and the others below -1.
        ("hinge", (1 + 0 + 2 + 0) / 4),
        # Each place of a cartoon against the same place of a target picture.
        ("relativistic", (softplus(1 - 0) + softplus(-3 - 2)) / 2),
    ],
)
def test_the_discriminators_loss(kind, expected):
    assert float(discriminator_loss(TARGETS, CARTOONS, kind)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("least-squares", ((1 - 1) ** 2 + (-3 - 1) ** 2) / 2),
        ("cross-entropy", (softplus(-1) + softplus(3)) / 2),
        ("hinge", -(1 - 3) / 2),
        ("relativistic", (softplus(0 - 1) + softplus(2 + 3)) / 2),
    ],
)
def test_the_transfer_generators_loss(kind, expected):
    assert float(transfer_loss(CARTOONS, TARGETS, kind)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["least-squares", "cross-entropy", "hinge", "relativistic"])
def test_what_helps_one_hurts_the_other(kind):
    scores = torch.tensor([[[[0.5, 0.1]]]], requires_grad=True)
    discriminator_loss(TARGETS, scores, kind).backward()
    against = scores.grad.clone()
    scores.grad = None
    transfer_loss(scores, TARGETS, kind).backward()
    assert (against > 0).all()
    assert (scores.grad < 0).all()


def test_the_relativistic_loss_wants_scores_to_compare_with():
    with pytest.raises(ValueError, match="target pictures"):
        transfer_loss(CARTOONS, None, "relativistic")


def test_least_squares_is_0_where_every_patch_says_what_it_should():
    ones, zeros = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert float(discriminator_loss(ones, zeros, "least-squares")) == 0
    assert float(transfer_loss(ones, None, "least-squares")) == 0


def test_the_gradient_penalty_is_the_squared_slope_of_the_mean_score():
    discriminator = nn.Conv2d(3, 1, 2, 2)
    nn.init.constant_(discriminator.weight, 0.3)
    pictures = torch.rand(5, 3, 4, 4)
    penalty = gradient_penalty(discriminator, pictures)
    # Each of 48 values has a share of a quarter in the mean of four patches.
    assert float(penalty.detach()) == pytest.approx(48 * (0.3 / 4) ** 2)
    penalty.backward()
    # d (4 * 12 w^2 / 16) / dw of each of 12 weights, that were alike.
    assert torch.allclose(discriminator.weight.grad, torch.full((1, 3, 2, 2), 2 * 4 * 0.3 / 16))
    assert discriminator.bias.grad is None


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    return {
        "adversarial": torch.tensor(1.0, requires_grad=True),
        "logits": torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]).requires_grad_(),
        "labels": torch.tensor([0, 1]),
        "restored": torch.full((2, 3, 2, 2), 0.25).requires_grad_(),
        "photos": torch.full((2, 3, 2, 2), -0.5),
    }


RECIPE = Recipe(adversarial_weight=2.0, recognition_weight=3.0, restoration_weight=5.0)
# ln 2 for the even guess, and -ln(3/4) for three to one.
RECOGNITION = (math.log(2) + math.log(4 / 3)) / 2


def test_the_generators_losses(outputs):
    losses = generator_losses(**outputs, recipe=RECIPE)
    assert float(losses.adversarial.detach()) == pytest.approx(1.0)
    assert float(losses.recognition.detach()) == pytest.approx(RECOGNITION)
    assert float(losses.restoration.detach()) == pytest.approx(0.75)
    assert float(losses.total.detach()) == pytest.approx(2 * 1.0 + 3 * RECOGNITION + 5 * 0.75)


def test_pictures_without_a_label_add_nothing_to_the_recognition_loss(outputs):
    whole = generator_losses(**outputs, recipe=RECIPE).recognition
    labels = outputs["labels"].clone()
    labels[1:] = UNLABELLED
    first = {name: outputs[name][:1] for name in ("logits", "labels", "restored", "photos")}
    alone = generator_losses(outputs["adversarial"], **first, recipe=RECIPE).recognition
    some = generator_losses(**(outputs | {"labels": labels}), recipe=RECIPE).recognition
    assert float(some.detach()) == pytest.approx(float(alone.detach()) / len(labels))
    assert float(some.detach()) != pytest.approx(float(whole.detach()))
    none = torch.full_like(labels, UNLABELLED)
    recognition = generator_losses(**(outputs | {"labels": none}), recipe=RECIPE).recognition
    assert float(recognition.detach()) == 0


def test_without_a_weight_the_similarity_is_left_out(outputs):
    losses = generator_losses(**outputs, recipe=RECIPE)
    assert float(losses.dissimilarity) == 0


def test_the_similarity_of_restored_photos(outputs):
    random = torch.Generator().manual_seed(0)
    photos = torch.rand(2, 3, 32, 32, generator=random)
    recipe = replace(RECIPE, similarity_weight=7.0)
    same = generator_losses(**(outputs | {"photos": photos, "restored": photos}), recipe=recipe)
    assert float(same.dissimilarity) == pytest.approx(0, abs=1e-5)
    # As bright, but dark where it is light: as unlike as can be.
    inverted = (1 - photos).requires_grad_()
    other = generator_losses(**(outputs | {"photos": photos, "restored": inverted}), recipe=recipe)
    dissimilarity = float(other.dissimilarity.detach())
    assert 1 < dissimilarity <= 2
    assert dissimilarity == float(dissimilarity_loss(inverted, photos).detach())
    parts = 2 * 1.0 + 3 * RECOGNITION + 5 * float(other.restoration.detach())
    assert float(other.total.detach()) == pytest.approx(parts + 7 * dissimilarity, rel=1e-5)
    other.dissimilarity.backward()
    assert inverted.grad is not None
    assert float(inverted.grad.abs().sum()) > 0


def test_coarse_differences_are_those_of_shades_and_not_of_detail(outputs):
    random = torch.Generator().manual_seed(0)
    photos = torch.rand(2, 3, 32, 32, generator=random)
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 0.2 - 0.1
    assert float(coarse_difference(photos + checks, photos)) == pytest.approx(0, abs=1e-6)
    assert float(coarse_difference(photos - 0.3, photos)) == pytest.approx(0.3, rel=1e-5)
    # Squares of 4 that are told apart, and lost in squares of 16.
    squares = checks[:8, :8].repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert float(coarse_difference(photos + squares, photos)) == pytest.approx(0.05, rel=1e-4)
    darker = (photos - 0.3).requires_grad_()
    recipe = replace(RECIPE, coarse_weight=7.0)
    losses = generator_losses(**(outputs | {"photos": photos, "restored": darker}), recipe=recipe)
    parts = 2 * 1.0 + 3 * RECOGNITION + 5 * 0.3
    assert float(losses.total.detach()) == pytest.approx(parts + 7 * 0.3, rel=1e-5)
    losses.coarse.backward()
    assert darker.grad is not None
    assert bool((darker.grad != 0).all())


@pytest.mark.parametrize("side", [1, 2, 12, 20, 36])
def test_coarse_differences_count_every_pixel(side):
    photos = torch.zeros(1, 3, side, side, requires_grad=True)
    coarse_difference(photos, torch.ones(1, 3, side, side)).backward()
    assert photos.grad is not None
    assert bool((photos.grad < 0).all())


def test_without_a_weight_the_coarse_difference_is_left_out(outputs):
    assert float(generator_losses(**outputs, recipe=RECIPE).coarse) == 0


def test_the_total_has_a_gradient_for_all_that_the_networks_put_out(outputs):
    generator_losses(**outputs, recipe=RECIPE).total.backward()
    # Of 5 * mean |restored - photos| over 24 values, all too bright.
    assert torch.allclose(outputs["restored"].grad, torch.full((2, 3, 2, 2), 5 / 24))
    assert float(outputs["adversarial"].grad) == 2
    # Of 3 * mean cross-entropy over two pictures: (probability - 1 where it is the label) * 1.5.
    expected = torch.tensor([[-0.75, 0.75], [0.375, -0.375]])
    assert torch.allclose(outputs["logits"].grad, expected)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_dissimilarity_is_what_the_ssim_of_the_bytes_lacks_to_one(noise):
    random = torch.Generator().manual_seed(0)
    photos = torch.rand(4, 3, 8, 8, generator=random) * 2 - 1
    photos = nn.functional.interpolate(photos, (64, 64), mode="bilinear")
    made = (photos + noise * torch.randn(photos.shape, generator=random)).clamp(-1, 1)
    in_bytes = ((made + 1) * 127.5, (photos + 1) * 127.5)
    similarity = structural_similarity_index_measure(*in_bytes, data_range=255.0)
    assert float(dissimilarity_loss(made, photos)) == pytest.approx(1 - float(similarity), abs=1e-4)


def test_mid_grey_is_no_black():
    """Around 0, where the networks' pictures are mid-grey, SSIM would take 1 level for much."""
    one, other = (torch.full((1, 3, 16, 16), level / 127.5 - 1) for level in (127, 128))
    assert float(dissimilarity_loss(one, other)) < 1e-4


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_features_are_compared_by_how_much_the_teachers_vary(scale):
    random = torch.Generator().manual_seed(0)
    taught = torch.randn(3, 8, 6, 6, generator=random) * scale
    assert float(feature_difference(taught, taught)) == 0
    assert float(feature_difference(torch.zeros_like(taught), taught)) == pytest.approx(1, rel=0.05)
    assert float(feature_difference(-taught, taught)) == pytest.approx(4, rel=0.05)
    half = taught.bfloat16() * 0.5
    assert float(feature_difference(half, taught)) == pytest.approx(0.25, rel=0.05)


def test_features_of_a_pale_picture_count_as_much_as_those_of_another():
    random = torch.Generator().manual_seed(0)
    taught = torch.randn(2, 8, 6, 6, generator=random) * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    for missed in (0, 1):
        own = taught.clone()
        own[missed] = 0
        assert float(feature_difference(own, taught)) == pytest.approx(0.5, rel=0.05)


def test_features_that_are_all_0_are_no_division_by_0():
    nothing = torch.zeros(2, 3, 4, 4)
    assert feature_difference(nothing, nothing) == 0
    assert torch.isfinite(feature_difference(nothing + 1e-3, nothing))
