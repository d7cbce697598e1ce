from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dtir_train.configuration import Recipe
from dtir_train.losses import adversarial_loss, discriminator_loss, generator_losses

SCORES = torch.tensor([[[[0.0, 2.0]]]])


def cross_entropy(score: float, real: bool) -> float:
    probability = 1 / (1 + math.exp(-score))
    return -math.log(probability if real else 1 - probability)


@pytest.mark.parametrize(
    ("kind", "real", "expected"),
    [
        ("least-squares", True, ((0 - 1) ** 2 + (2 - 1) ** 2) / 2),
        ("least-squares", False, (0**2 + 2**2) / 2),
        ("cross-entropy", True, (cross_entropy(0, True) + cross_entropy(2, True)) / 2),
        ("cross-entropy", False, (cross_entropy(0, False) + cross_entropy(2, False)) / 2),
    ],
)
def test_the_adversarial_loss(kind, real, expected):
    assert float(adversarial_loss(SCORES, real, kind)) == pytest.approx(expected)


def test_least_squares_is_0_where_every_patch_says_what_it_should():
    assert float(adversarial_loss(torch.ones(2, 1, 3, 3), True, "least-squares")) == 0
    assert float(adversarial_loss(torch.zeros(2, 1, 3, 3), False, "least-squares")) == 0


def test_the_discriminators_loss_is_the_mean_of_both_sides():
    # Targets called (0, 2) cost 1, cartoons called (1, 1) cost 1: not real is 0.
    loss = discriminator_loss(SCORES, torch.ones(1, 1, 1, 2), "least-squares")
    assert float(loss) == pytest.approx((1 + 1) / 2)
    loss = discriminator_loss(torch.ones(1, 1, 1, 2), SCORES, "least-squares")
    assert float(loss) == pytest.approx((0 + 2) / 2)


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    return {
        "cartoon_scores": SCORES.clone().requires_grad_(),
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
    parts = 2 * 1.0 + 3 * RECOGNITION + 5 * float(other.restoration.detach())
    assert float(other.total.detach()) == pytest.approx(parts + 7 * dissimilarity, rel=1e-5)
    other.dissimilarity.backward()
    assert inverted.grad is not None
    assert float(inverted.grad.abs().sum()) > 0


def test_the_recipe_says_which_adversarial_loss(outputs):
    recipe = replace(RECIPE, adversarial_loss="cross-entropy")
    expected = (cross_entropy(0, True) + cross_entropy(2, True)) / 2
    losses = generator_losses(**outputs, recipe=recipe)
    assert float(losses.adversarial.detach()) == pytest.approx(expected)


def test_without_scores_there_is_no_adversarial_loss(outputs):
    losses = generator_losses(**(outputs | {"cartoon_scores": None}), recipe=RECIPE)
    assert float(losses.adversarial.detach()) == 0
    assert float(losses.total.detach()) == pytest.approx(3 * RECOGNITION + 5 * 0.75)


def test_the_total_has_a_gradient_for_all_that_the_networks_put_out(outputs):
    generator_losses(**outputs, recipe=RECIPE).total.backward()
    # Of 5 * mean |restored - photos| over 24 values, all too bright.
    assert torch.allclose(outputs["restored"].grad, torch.full((2, 3, 2, 2), 5 / 24))
    # Of 2 * mean (score - 1)^2 over two scores.
    assert torch.allclose(outputs["cartoon_scores"].grad, torch.tensor([[[[-2.0, 2.0]]]]))
    # Of 3 * mean cross-entropy over two pictures: (probability - 1 where it is the label) * 1.5.
    expected = torch.tensor([[-0.75, 0.75], [0.375, -0.375]])
    assert torch.allclose(outputs["logits"].grad, expected)
