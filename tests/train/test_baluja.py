from __future__ import annotations

import pytest
import torch
from lightning_fabric.accelerators import MPSAccelerator
from torch import Tensor

from dtir_sdk.errors import ConfigurationError
from dtir_train.arithmetic import best_device
from dtir_train.baluja import HidingNetworks, HidingRecipe, hide_and_restore, train_hiding


def pairs(step: int, count: int = 4, side: int = 16) -> tuple[Tensor, Tensor]:
    """Secrets of one colour each, and covers of another."""
    random = torch.Generator().manual_seed(step)
    colours = torch.rand(2, count, 3, 1, 1, generator=random) * 1.6 - 0.8
    secrets, covers = colours.expand(2, count, 3, side, side)
    return secrets.clone(), covers.clone()


def mean_difference(pictures, tensor: Tensor) -> float:
    levels = (tensor + 1) * 127.5
    return float((torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - levels).abs().mean())


def test_what_is_hidden_is_restored_through_bytes():
    # A heavy secret: the cover alone is learnt first otherwise, and the secret long after.
    recipe = HidingRecipe(filters=8, steps=400, crop=0, learning_rate=2e-3, secret_weight=5)
    network = train_hiding(lambda step: pairs(step, 8, 8), recipe, "hiding")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    secrets, covers = pairs(9999, 32, 8)
    hidden = hide_and_restore(network, secrets, covers)
    assert hidden.containers.shape == hidden.restored.shape == (32, 8, 8, 3)
    # Colours that are guessed are 52 levels off on average.
    assert mean_difference(hidden.restored, secrets) < 20
    assert mean_difference(hidden.containers, covers) < 50


def test_the_same_seed_gives_the_same_networks():
    recipe = HidingRecipe(filters=2, steps=2, batch_size=4, crop=8)
    one, same, other = (train_hiding(pairs, recipe, "hiding", seed) for seed in (0, 0, 1))
    assert torch.equal(one.reveal.joined.weight, same.reveal.joined.weight)
    assert not torch.equal(one.reveal.joined.weight, other.reveal.joined.weight)


def test_they_are_trained_where_all_else_is(monkeypatch):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    network = train_hiding(pairs, HidingRecipe(filters=1, steps=1, crop=8), "hiding")
    assert network.reveal.joined.weight.device.type == best_device().type


@pytest.mark.parametrize(("crop", "side"), [(8, 8), (0, 16), (16, 16), (99, 16)])
def test_a_step_is_shown_a_square_of_each_pair(monkeypatch, crop, side):
    seen = []
    forward = HidingNetworks.forward

    def watched(self, secrets, covers, noise):
        seen.append((secrets.shape, covers.shape))
        return forward(self, secrets, covers, noise)

    monkeypatch.setattr(HidingNetworks, "forward", watched)
    train_hiding(pairs, HidingRecipe(filters=1, steps=1, crop=crop), "hiding")
    assert seen == [(torch.Size([4, 3, side, side]),) * 2]


def test_networks_are_of_the_papers_width():
    network = HidingNetworks()
    tower = network.hiding.towers[1]
    kernels = {t[-2].kernel_size[0] for t in network.hiding.towers}
    assert kernels == {3, 4, 5}
    assert tower[1].out_channels == 50
    pictures = torch.zeros(1, 3, 20, 24)
    containers, restored = network(pictures, pictures, 0.0)
    assert containers.shape == restored.shape == pictures.shape


@pytest.mark.parametrize(
    "setting",
    [
        {"filters": 0},
        {"batch_size": 0},
        {"learning_rate": float("nan")},
        {"steps": -1},
        {"crop": -1},
        {"noise": float("inf")},
        {"secret_weight": 0},
    ],
)
def test_a_recipe_that_cannot_be_is_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigurationError, match=rf"{name} is .*: it must be"):
        HidingRecipe(**setting)
